//! A task's whole life through real actors.
