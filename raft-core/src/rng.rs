//! The crate's only source of randomness: SplitMix64, seeded by the host, so that a run can be repeated.
//! Used to spread election timeouts; nothing here is fit for secrets.

use std::time::Duration;

/// A seeded stream of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// Starts a stream; equal seeds give equal streams.
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A duration in `min..max`.
    pub(crate) fn duration(&mut self, min: Duration, max: Duration) -> Duration {
        let span = u64::try_from((max - min).as_nanos()).expect("timeouts are below 584 years");
        min + Duration::from_nanos(self.next() % span)
    }
}
