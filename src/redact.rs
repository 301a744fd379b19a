//! What must never be shown: credentials are taken out of every text that leaves the process.
