//! Feeds `flotilla_client::fuzzing::call`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    flotilla_client::fuzzing::call(data);
});
