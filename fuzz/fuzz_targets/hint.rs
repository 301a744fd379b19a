//! Runs `targets::hint`: `cargo +nightly fuzz run hint`.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::hint(data));
