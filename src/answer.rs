//! Whether an answer can be accepted: JSON, and every violation of its schema with its path.
