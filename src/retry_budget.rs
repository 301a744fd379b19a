//! The retry budget of an integration: retries are a share of first tries, so that a bad hour is not made worse.
