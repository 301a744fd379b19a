//! Whether an agent goes in circles: the same call again and again, or a cycle of calls, compared with their arguments.
