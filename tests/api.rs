//! The operator's door, over real HTTP.
