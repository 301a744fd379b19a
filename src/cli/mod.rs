//! The `backstop` command: one command a file, data on stdout, messages on stderr.
