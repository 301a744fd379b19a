//! One key, one task.
