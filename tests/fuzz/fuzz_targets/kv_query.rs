//! Feeds `flotilla::fuzzing::query`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    flotilla::fuzzing::query(data);
});
