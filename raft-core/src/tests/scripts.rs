//! Every script under testscripts/ gives its transcript again.

use crate::testing::verify_scripts;
use std::path::Path;

#[test]
fn every_script_gives_its_transcript() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let count = verify_scripts(&directory);
    assert!(count >= 80, "only {count} scripts were found");
}
