//! Feeds `flotilla::fuzzing::resp`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    flotilla::fuzzing::resp(data);
});
