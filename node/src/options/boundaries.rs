//! Where a new cluster's ranges begin. Pure.

use bytes::Bytes;
use std::fmt;

/// Most ranges of a new cluster, evenly cut or at explicit keys.
pub const RANGES_MAX: usize = 4096;
/// Up to this many ranges begin at prefixes of two hexadecimal digits, more at prefixes of four.
const SHORT_MAX: usize = 256;
const _: () = assert!(RANGES_MAX <= 1 << 16, "each range needs a prefix of its own");

/// Why no ranges can be cut this way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadBoundaries {
    /// The number of ranges is 0 or more than [`RANGES_MAX`]; split keys make one more than they are.
    Count(usize),
    /// The empty key already starts the first range.
    Empty,
    /// Two split keys are the same after rounding to the start of their `{tag}`.
    Twice(Bytes),
}

impl fmt::Display for BadBoundaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadBoundaries::Count(count) => {
                write!(f, "{count} ranges: use 1 to {RANGES_MAX}")
            }
            BadBoundaries::Empty => write!(f, "an empty split key: the first range starts there anyway"),
            BadBoundaries::Twice(key) => {
                write!(
                    f,
                    "two split keys begin the same range at `{}` (a {{tag}} is never split)",
                    key.escape_ascii()
                )
            }
        }
    }
}

impl std::error::Error for BadBoundaries {}

/// The first key of every range but the first, ascending. Explicit split keys win; without any, the hexadecimal
/// prefixes 00..ff (beyond 256 ranges 0000..ffff) are divided evenly over `ranges`.
pub fn boundaries(ranges: usize, split_keys: &[Bytes]) -> Result<Vec<Bytes>, BadBoundaries> {
    if split_keys.is_empty() {
        even(ranges)
    } else {
        explicit(split_keys)
    }
}

fn even(ranges: usize) -> Result<Vec<Bytes>, BadBoundaries> {
    check_count(ranges)?;
    let prefix = |i: usize| match ranges {
        ..=SHORT_MAX => format!("{:02x}", i * 256 / ranges),
        _ => format!("{:04x}", i * 65_536 / ranges),
    };
    Ok((1..ranges).map(|i| Bytes::from(prefix(i))).collect())
}

fn check_count(ranges: usize) -> Result<(), BadBoundaries> {
    if (1..=RANGES_MAX).contains(&ranges) {
        Ok(())
    } else {
        Err(BadBoundaries::Count(ranges))
    }
}

fn explicit(split_keys: &[Bytes]) -> Result<Vec<Bytes>, BadBoundaries> {
    check_count(split_keys.len() + 1)?;
    let mut starts: Vec<Bytes> = split_keys.iter().map(tag_start).collect();
    starts.sort();
    if starts[0].is_empty() {
        return Err(BadBoundaries::Empty);
    }
    match starts.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(BadBoundaries::Twice(pair[0].clone())),
        None => Ok(starts),
    }
}

/// A leading `{tag}` is never split: the key is rounded down to its tag. `{}` is no tag.
fn tag_start(key: &Bytes) -> Bytes {
    let end = key.iter().position(|&byte| byte == b'}');
    match end {
        Some(end) if end > 1 && key[0] == b'{' => key.slice(..=end),
        _ => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&'static str]) -> Vec<Bytes> {
        keys.iter()
            .map(|key| Bytes::from_static(key.as_bytes()))
            .collect()
    }

    #[test]
    fn ranges_divide_the_hex_prefixes_evenly() {
        assert_eq!(boundaries(1, &[]), Ok(vec![]));
        assert_eq!(boundaries(4, &[]), Ok(keys(&["40", "80", "c0"])));
        assert_eq!(boundaries(3, &[]), Ok(keys(&["55", "aa"])));
        let finest = boundaries(256, &[]).expect("in bounds");
        assert_eq!(
            (finest.len(), &finest[0][..], &finest[254][..]),
            (255, &b"01"[..], &b"ff"[..])
        );
        let longer = boundaries(1000, &[]).expect("in bounds");
        assert_eq!((&longer[0][..], &longer[499][..]), (&b"0041"[..], &b"8000"[..]));
        for ranges in (1..=300).chain([1000, RANGES_MAX - 1, RANGES_MAX]) {
            let starts = boundaries(ranges, &[]).expect("in bounds");
            assert_eq!(starts.len(), ranges - 1);
            assert!(
                starts.windows(2).all(|pair| pair[0] < pair[1]),
                "{ranges} ranges ascend"
            );
        }
        assert_eq!(boundaries(0, &[]), Err(BadBoundaries::Count(0)));
        assert_eq!(
            boundaries(RANGES_MAX + 1, &[]),
            Err(BadBoundaries::Count(RANGES_MAX + 1))
        );
    }

    #[test]
    fn explicit_keys_are_sorted_and_rounded_to_their_tag() {
        assert_eq!(boundaries(16, &keys(&["m", "c"])), Ok(keys(&["c", "m"])));
        assert_eq!(
            boundaries(16, &keys(&["{u}x", "{}x", "{ab"])),
            Ok(keys(&["{ab", "{u}", "{}x"]))
        );
        assert_eq!(
            boundaries(16, &keys(&["a", "a"])),
            Err(BadBoundaries::Twice(Bytes::from("a")))
        );
        assert_eq!(
            boundaries(16, &keys(&["{u}a", "{u}b"])),
            Err(BadBoundaries::Twice(Bytes::from("{u}")))
        );
        assert_eq!(boundaries(16, &keys(&["a", ""])), Err(BadBoundaries::Empty));
        let many: Vec<Bytes> = (0..RANGES_MAX).map(|i| Bytes::from(format!("{i:03}"))).collect();
        assert!(boundaries(16, &many[1..]).is_ok());
        assert_eq!(boundaries(16, &many), Err(BadBoundaries::Count(RANGES_MAX + 1)));
    }
}
