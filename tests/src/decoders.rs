//! Every decoder of the workspace that reads bytes from outside or from a disk, by name: what the fuzz targets in
//! `tests/fuzz`, the replay of their corpus and the property tests run. None may panic, whatever the bytes; none may
//! reserve more memory than its input justifies.

use flotilla_client::fuzzing as client;
use std::path::PathBuf;
use store_redb::fuzzing as store;
use transport_quic::fuzzing as transport;

/// One decoder.
pub struct Target {
    /// Also the name of its fuzz target and of the folder of its corpus.
    pub name: &'static str,
    /// True if the bytes were what they should be. Panics if a promise is broken.
    pub run: fn(&[u8]) -> bool,
    /// Encodings that it must take; none, if the corpus alone has them.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Its memory is bounded by its input. Not so where a short command may ask for a long value.
    pub bounded: bool,
}

const fn target(name: &'static str, run: fn(&[u8]) -> bool, seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target {
        name,
        run,
        seeds,
        bounded: true,
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("transport_frames", transport::frames, transport::frames_seeds),
    target("transport_hello", transport::hello, transport::hello_seeds),
    target("transport_certificate", transport::certificate, Vec::new),
    target(
        "raft_frame",
        multiraft::fuzzing::frame,
        multiraft::fuzzing::frame_seeds,
    ),
    target("client_call", client::call, client::call_seeds),
    target("client_response", client::response, client::response_seeds),
    target("client_frames", client::frames, client::frames_seeds),
    target("resp", flotilla::fuzzing::resp, flotilla::fuzzing::resp_seeds),
    target(
        "kv_command",
        flotilla::fuzzing::command,
        flotilla::fuzzing::command_seeds,
    ),
    Target {
        bounded: false,
        ..target(
            "kv_apply",
            flotilla::fuzzing::apply,
            flotilla::fuzzing::command_seeds,
        )
    },
    target(
        "kv_query",
        flotilla::fuzzing::query,
        flotilla::fuzzing::query_seeds,
    ),
    target(
        "kv_answer",
        flotilla::fuzzing::answer,
        flotilla::fuzzing::answer_seeds,
    ),
    target(
        "descriptor",
        flotilla::fuzzing::descriptor,
        flotilla::fuzzing::descriptor_seeds,
    ),
    target(
        "forwarded",
        flotilla::fuzzing::forwarded,
        flotilla::fuzzing::forwarded_seeds,
    ),
    target(
        "config",
        flotilla::fuzzing::config,
        flotilla::fuzzing::config_seeds,
    ),
    target("store_record", store::record, store::record_seeds),
    target("store_entry", store::entry, store::entry_seeds),
    target("store_header", store::header, store::header_seeds),
    target("store_identity", store::identity, store::identity_seeds),
    target("store_group_row", store::group_row, store::group_row_seeds),
    target("store_data_row", store::data_row, store::data_row_seeds),
];

/// The folder of a target's corpus.
pub fn corpus(target: &Target) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");
    PathBuf::from(folder).join(target.name)
}
