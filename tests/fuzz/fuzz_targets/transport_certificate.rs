//! Feeds `transport_quic::fuzzing::certificate`; what it promises is written there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    transport_quic::fuzzing::certificate(data);
});
