//! Programs we start: with an argument list and no shell, a bare environment, in a process group that ends with us.

use std::collections::BTreeMap;
use std::io;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::tool_config::Setting;

/// What a program gets of our own environment; the rest of it holds keys that are not meant for it.
const INHERITED: [&str; 2] = ["PATH", "HOME"];

/// Starts a program with all three streams piped.
///
/// Whoever drops the [`Group`] ends the program and everything it started, unless that left the group.
pub(super) fn start(command: &[String], env: &BTreeMap<String, Setting>) -> io::Result<(Child, Group)> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(INHERITED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
    command.envs(env.iter().map(|(name, value)| (name, value.expose())));
    // A group of its own: Ctrl-C at our terminal is ours to answer, and what it started can be ended with it.
    #[cfg(unix)]
    command.process_group(0);
    let child = command.kill_on_drop(true).spawn()?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
    Ok((child, group))
}

/// The process group of a program, ended when dropped.
///
/// It is to be dropped soon after its leader was waited for, because the number of a group that is gone may be given
/// to another.
#[derive(Debug)]
pub(super) struct Group(Option<i32>);

impl Group {
    /// Ends every process of the group at once. Windows has no such groups: there only the program itself ends.
    pub(super) fn end(&mut self) {
        #[cfg(unix)]
        if let Some(id) = self.0.take() {
            let _gone_already =
                nix::sys::signal::killpg(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGKILL);
        }
        #[cfg(not(unix))]
        self.0.take();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}
