//! Every command in the README does what the README says.
