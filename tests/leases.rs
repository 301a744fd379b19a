//! A lease is held by one, ends on time, and a late result changes nothing.
