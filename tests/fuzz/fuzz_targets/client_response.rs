//! Feeds `flotilla_client::fuzzing::response`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    flotilla_client::fuzzing::response(data);
});
