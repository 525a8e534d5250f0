//! The simulator's own tests: it repeats itself, it finds nothing in sound code, and it finds every seeded bug.

use super::{Bug, Settings, run};

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=3 {
        let settings = Settings {
            transcript: true,
            ..Settings::default()
        };
        let (first, second) = (run(seed, &settings), run(seed, &settings));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.transcript, second.transcript, "seed {seed}");
        assert_eq!(first.totals, second.totals, "seed {seed}");
        let silent = run(seed, &Settings::default());
        assert_eq!(first.hash, silent.hash, "writing it down changes seed {seed}");
    }
    assert_ne!(
        run(1, &Settings::default()).hash,
        run(2, &Settings::default()).hash
    );
}
