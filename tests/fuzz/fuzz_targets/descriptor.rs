//! Feeds `flotilla::fuzzing::descriptor`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    flotilla::fuzzing::descriptor(data);
});
