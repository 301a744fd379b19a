//! Runs `targets::callback`: `cargo +nightly fuzz run callback`.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::callback(data));
