//! Feeds `multiraft::fuzzing::frame`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiraft::fuzzing::frame(data);
});
