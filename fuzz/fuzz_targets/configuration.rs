//! Runs `targets::configuration`: `cargo +nightly fuzz run configuration`.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::configuration(data));
