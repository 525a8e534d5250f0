//! Feeds `flotilla::fuzzing::apply`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    flotilla::fuzzing::apply(data);
});
