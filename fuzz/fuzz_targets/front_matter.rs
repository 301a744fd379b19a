//! Runs `targets::front_matter`: `cargo +nightly fuzz run front_matter`.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::front_matter(data));
