//! `backstop check`: the files of a team, every mistake at once, offline.

use std::path::PathBuf;

use clap::Args;
use secrecy::ExposeSecret;
use serde_json::json;

use super::output::visible;
use super::{Context, Error};
use crate::config::ChannelConfig;
use crate::definitions::{self, Diagnostic, Loaded, Problems, Purpose, TEAM_FILE};
use crate::pager;

/// Check the files of a team.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  backstop check\n  backstop check my-team -o json")]
pub(super) struct Check {
    /// The directory with backstop.yaml
    #[arg(default_value = ".")]
    path: PathBuf,
}

impl Check {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let dir = directory(&self.path);
        let (errors, warnings, summary) = match definitions::load(&dir, &env, Purpose::Check).and_then(with_mail) {
            Ok(loaded) => {
                let config = &loaded.config;
                let summary = format!(
                    "{}: {} agents, {} prompts, {} providers, configuration {}",
                    config.team,
                    config.agents.len(),
                    config.prompts.len(),
                    config.providers.len(),
                    config.fingerprint
                );
                (Vec::new(), loaded.warnings, summary)
            }
            Err(Problems { errors, warnings }) => (errors, warnings, String::new()),
        };
        let raw = json!({ "ok": errors.is_empty(), "errors": errors, "warnings": warnings, "summary": summary });
        context.out.data(&raw, "/summary", || {
            let mut text = lines(&errors, "error") + &lines(&warnings, "warning");
            text.push_str(&if summary.is_empty() { String::new() } else { format!("ok: {}\n", visible(&summary)) });
            text
        })?;
        if errors.is_empty() {
            context.out.next("backstop up");
            return Ok(());
        }
        let message = format!("{} error(s) in the files of this team", errors.len());
        Err(Error::Config { message, next: Some("backstop check".to_owned()) })
    }
}

/// A file of the directory stands for the directory.
pub(super) fn directory(path: &std::path::Path) -> PathBuf {
    match path.parent() {
        Some(parent) if path.is_file() && parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) if path.is_file() => parent.to_owned(),
        Some(_) | None => path.to_owned(),
    }
}

/// With e-mail that can be sent. Whether addresses and the one of the server are sound is known by what opens the channel;
/// asked here, the mistake is told with its place, and not only by a team that does not start.
pub(super) fn with_mail(loaded: Loaded) -> Result<Loaded, Problems> {
    let mut errors = Vec::new();
    for (i, person) in loaded.config.escalation.on_call.iter().enumerate() {
        for (n, channel) in person.channels.iter().enumerate() {
            let ChannelConfig::Email { smtp, .. } = channel else { continue };
            // That its variable is not set was told already.
            if smtp.expose_secret().is_empty() {
                continue;
            }
            let (pager::Error::Later { detail, .. } | pager::Error::Never { detail, .. }) =
                match pager::channel(channel, &loaded.config.team) {
                    Ok(_) => continue,
                    Err(error) => error,
                };
            let field = format!("escalation.on-call.{i}.channels.{n}.email");
            let place = loaded.origins.get(&field).map_or(TEAM_FILE, String::as_str);
            let (file, line) = place.rsplit_once(':').unwrap_or((place, "0"));
            errors.push(Diagnostic {
                file: file.to_owned(),
                line: line.parse().unwrap_or(0),
                column: 0,
                field,
                message: detail,
                // A build without mail says by itself what to do.
                remedy: match cfg!(feature = "smtp") {
                    true => {
                        "write smtp as smtps://user:password@host:465, and addresses as name@example.com".to_owned()
                    }
                    false => String::new(),
                },
            });
        }
    }
    if errors.is_empty() { Ok(loaded) } else { Err(Problems { errors, warnings: loaded.warnings }) }
}

/// An environment variable, as definitions read it.
pub(super) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Diagnostics as compilers write them: `file:line:column: error: field: message`, and what to do.
pub(super) fn lines(diagnostics: &[Diagnostic], severity: &str) -> String {
    let mut text = String::new();
    for d in diagnostics {
        let place = match (d.line, d.column) {
            (0, _) => d.file.clone(),
            (line, 0) => format!("{}:{line}", d.file),
            (line, column) => format!("{}:{line}:{column}", d.file),
        };
        let field = if d.field.is_empty() { String::new() } else { format!("{}: ", d.field) };
        text.push_str(&visible(&format!("{place}: {severity}: {field}{}", d.message)));
        text.push('\n');
        if !d.remedy.is_empty() {
            text.push_str(&format!("    {}\n", visible(&d.remedy)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_read_like_a_compilers() {
        let diagnostic = Diagnostic {
            file: "agents/cto.md".to_owned(),
            line: 3,
            column: 7,
            field: "modle".to_owned(),
            message: "unknown key \u{1b}[31m".to_owned(),
            remedy: "did you mean `model`?".to_owned(),
        };
        assert_eq!(
            lines(&[diagnostic], "error"),
            "agents/cto.md:3:7: error: modle: unknown key \\u{1b}[31m\n    did you mean `model`?\n"
        );
    }
}
