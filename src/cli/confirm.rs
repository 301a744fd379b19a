//! Before many tasks are touched: the number is shown, and typed by a person or waved through with `--yes`.

use std::io::{self, BufRead, Write};

use super::Error;
use super::output::interactive;

/// Asks a person to type the number, unless `yes` was given.
///
/// # Errors
/// When nobody is there to ask, or another number is typed.
pub(super) fn confirm(verb: &str, noun: &str, count: usize, yes: bool) -> Result<(), Error> {
    if yes {
        return Ok(());
    }
    if !interactive() {
        return Err(Error::Usage {
            message: format!("{verb} {count} {noun} without a terminal to confirm it on needs --yes"),
            next: Some("the same with --dry-run, then with --yes".to_owned()),
        });
    }
    let _ = write!(io::stderr().lock(), "{verb} {count} {noun}? type {count} to go on: ");
    let _ = io::stderr().lock().flush();
    let mut typed = String::new();
    io::stdin().lock().read_line(&mut typed).map_err(|source| Error::File {
        path: "stdin".to_owned(),
        doing: "read",
        source,
    })?;
    if typed.trim() == count.to_string() {
        return Ok(());
    }
    Err(Error::Failed { message: "not confirmed; nothing was changed".to_owned(), next: None })
}
