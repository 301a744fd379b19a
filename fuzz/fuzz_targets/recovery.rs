//! Runs `targets::recovery`: `cargo +nightly fuzz run recovery`.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::recovery(data));
