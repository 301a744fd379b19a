//! The adapters against real loopback HTTP: every way a provider can fail is seen and kept.
