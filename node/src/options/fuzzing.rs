//! The configuration file as a function of bytes; see `crate::fuzzing`.

use super::file;

/// A configuration file: whatever stands in it is taken or refused with a line number.
pub fn config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    match file::read("flotilla.toml", text) {
        Ok(_) => true,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// Configuration files.
pub fn config_seeds() -> Vec<Vec<u8>> {
    let files = [
        "",
        "# nothing\n",
        "node_id = 1\ndata_dir = \"d\"\n[listen]\nquic = \"127.0.0.1:7400\"\n",
    ];
    files.iter().map(|text| text.as_bytes().to_vec()).collect()
}
