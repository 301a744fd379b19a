//! Files decide, folders do.
