//! Feeds `flotilla::fuzzing::command`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    flotilla::fuzzing::command(data);
});
