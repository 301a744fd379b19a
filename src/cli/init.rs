//! `backstop init`: the files of a team, to begin with.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Context, Error};
use crate::definitions;

/// Write the files of a team; never overwrites one.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  backstop init my-team && cd my-team && backstop check")]
pub(super) struct Init {
    /// Where
    #[arg(default_value = ".")]
    dir: PathBuf,
}

impl Init {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let (mut written, mut kept) = (Vec::new(), Vec::new());
        for (name, content) in definitions::templates() {
            let path = self.dir.join(name);
            let file = |doing| {
                let path = path.display().to_string();
                move |source| Error::File { path, doing, source }
            };
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(file("created"))?;
            }
            // Created or refused in one step: a file that appears meanwhile is not overwritten either.
            match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut new) => {
                    new.write_all(content.as_bytes()).map_err(file("written"))?;
                    written.push((*name).to_owned());
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => kept.push((*name).to_owned()),
                Err(error) => return Err(file("created")(error)),
            }
        }
        let raw = json!({ "dir": self.dir.display().to_string(), "written": written, "kept": kept });
        context.out.data(&raw, "/dir", || written.iter().map(|name| format!("{name}\n")).collect())?;
        if !kept.is_empty() {
            context.out.say(&format!("kept what was there: {}", kept.join(", ")));
        }
        let here = self.dir.as_os_str() == ".";
        let dir = self.dir.display();
        context.out.next(&if here { "backstop check".to_owned() } else { format!("cd {dir} && backstop check") });
        Ok(())
    }
}
