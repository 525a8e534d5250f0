//! Feeds `store_redb::fuzzing::data_row`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    store_redb::fuzzing::data_row(data);
});
