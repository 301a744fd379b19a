//! The `backstop` command.

use std::process::ExitCode;

/// Only of the command: whoever embeds the library chooses for themselves.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    backstop::cli::main()
}
