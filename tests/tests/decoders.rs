//! No bytes whatever make a decoder panic or reserve much: random bytes, valid encodings that were cut, changed,
//! spliced or given huge lengths, and all that fuzzing found worth keeping (`tests/fuzz/corpus`).
//! `PROPTEST_CASES=1000000 cargo test --release -p flotilla-tests --test decoders` runs for long.

use flotilla_tests::decoders::{TARGETS, Target, corpus};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use std::path::Path;
use std::sync::OnceLock;

/// Memory any decoder may take, in bytes, whatever the input.
const BYTES_FREE: u64 = 64 << 10;
/// Memory it may take for each byte of input: what is decoded, written again and decoded again.
const BYTES_PER_BYTE: u64 = 150;

/// Runs a decoder and watches its memory; true if it took the bytes.
fn run(target: &Target, bytes: &[u8]) -> bool {
    let mut taken = false;
    let memory = allocation_counter::measure(|| taken = (target.run)(bytes));
    let most = BYTES_FREE + BYTES_PER_BYTE * bytes.len() as u64;
    assert!(
        !target.bounded || memory.bytes_max <= most,
        "{} took {} bytes of memory for an input of {}",
        target.name,
        memory.bytes_max,
        bytes.len()
    );
    taken
}

/// The files of a target's corpus, in the order of their names.
fn files(target: &Target) -> Vec<Vec<u8>> {
    let folder = corpus(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).expect("a readable file"))
        .collect()
}

/// Each target's corpus, read once.
fn corpora() -> &'static [Vec<Vec<u8>>] {
    static READ: OnceLock<Vec<Vec<Vec<u8>>>> = OnceLock::new();
    READ.get_or_init(|| TARGETS.iter().map(files).collect())
}

#[test]
fn every_encoding_is_taken_and_stands_in_the_corpus_as_it_always_was() {
    for target in TARGETS {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            assert!(run(target, seed), "{}: seed {number} is refused", target.name);
            let path = corpus(target).join(format!("seed-{number:02}"));
            if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
                std::fs::create_dir_all(corpus(target)).unwrap();
                std::fs::write(&path, seed).unwrap();
            }
            assert_unchanged(&path, seed);
        }
    }
}

/// A changed seed is a changed format: old bytes must still be taken, or refused by a new version.
fn assert_unchanged(path: &Path, seed: &[u8]) {
    let stored = std::fs::read(path).unwrap_or_default();
    let why = "UPDATE_GOLDENFILES=1 writes it anew; then tell how older bytes are read";
    assert_eq!(stored, seed, "{} has changed: {why}", path.display());
}

#[test]
fn the_corpus_replays() {
    for (target, files) in TARGETS.iter().zip(corpora()) {
        let taken = files.iter().filter(|bytes| run(target, bytes)).count();
        println!("{}: {taken} of {} files taken", target.name, files.len());
        assert!(
            taken > 0,
            "INVALID: nothing in the corpus of {} is well-formed",
            target.name
        );
    }
}

/// One change to an encoding.
#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Truncate(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// A length of this many bytes, as large as it can be.
    Huge(Index, usize),
    /// A varint for 2^63 and more.
    HugeVarint(Index),
    /// The rest comes from another file.
    Splice(Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let (at, byte) = (any::<Index>, any::<u8>);
    prop_oneof![
        4 => (at(), byte()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        1 => at().prop_map(Edit::Truncate),
        1 => (at(), vec(byte(), 1..20)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        1 => (at(), 1..9usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        1 => (at(), prop::sample::select(vec![1usize, 2, 4, 8])).prop_map(|(at, width)| Edit::Huge(at, width)),
        1 => at().prop_map(Edit::HugeVarint),
        1 => (at(), at()).prop_map(|(at, other)| Edit::Splice(at, other)),
    ]
}

fn overwrite(bytes: &mut Vec<u8>, at: usize, with: &[u8]) {
    let end = (at + with.len()).min(bytes.len());
    bytes.splice(at..end, with.iter().copied());
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit, files: &[Vec<u8>]) {
    let place = |at: &Index| at.index(bytes.len() + 1);
    match edit {
        Edit::Set(at, byte) => overwrite(bytes, place(at), &[*byte]),
        Edit::Truncate(at) => bytes.truncate(place(at)),
        Edit::Insert(at, more) => {
            let at = place(at);
            bytes.splice(at..at, more.iter().copied());
        }
        Edit::Remove(at, count) => {
            let from = place(at);
            let to = (from + count).min(bytes.len());
            bytes.drain(from..to);
        }
        Edit::Huge(at, width) => overwrite(bytes, place(at), &[0xff; 8][..*width]),
        Edit::HugeVarint(at) => {
            let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
            overwrite(bytes, place(at), &huge);
        }
        Edit::Splice(at, other) => {
            let other = &files[other.index(files.len())];
            let at = place(at);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[at.min(other.len())..]);
        }
    }
}

/// A case costs microseconds, so there are more than usual. `PROPTEST_CASES`, if set, is the number of cases itself.
fn many() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: usual.cases * 40,
        failure_persistence: None, // what it finds goes into the corpus
        ..usual
    }
}

proptest! {
    #![proptest_config(many())]

    #[test]
    fn changed_encodings_never_panic(base in any::<Index>(), edits in vec(edit(), 1..6)) {
        for (target, files) in TARGETS.iter().zip(corpora()) {
            let mut bytes = files[base.index(files.len())].clone();
            edits.iter().for_each(|edit| apply(&mut bytes, edit, files));
            run(target, &bytes);
        }
    }

    #[test]
    fn cut_encodings_never_panic(base in any::<Index>(), at in any::<Index>()) {
        for (target, files) in TARGETS.iter().zip(corpora()) {
            let bytes = &files[base.index(files.len())];
            run(target, &bytes[..at.index(bytes.len() + 1)]);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        for target in TARGETS {
            run(target, &bytes);
        }
    }
}
