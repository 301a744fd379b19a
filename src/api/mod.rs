//! The operator's door: the same questions and orders over HTTP, on loopback unless a token guards it.
