//! Feeds `store_redb::fuzzing::record`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    store_redb::fuzzing::record(data);
});
