//! Retries stay a share of first tries.
