//! Feeds `transport_quic::fuzzing::frames`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    transport_quic::fuzzing::frames(data);
});
