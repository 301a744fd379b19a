//! Three dead letters in a sliding hour call a human, once.
