#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| porin_fuzz::framing(bytes));
