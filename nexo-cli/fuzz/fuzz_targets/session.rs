#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    nexo_cli_fuzz::session(data);
});
