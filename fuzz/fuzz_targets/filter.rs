//! Runs `targets::filter`: `cargo +nightly fuzz run filter`.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::filter(data));
