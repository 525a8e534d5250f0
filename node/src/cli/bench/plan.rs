//! What the bench does: operations, keys, values. Deterministic for a seed.

use super::Api;
use clap::ValueEnum;
use std::fmt;
use std::time::Duration;

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Operation {
    /// Write a key.
    Put,
    /// Read a key, linearizably.
    Get,
}

/// Operations in proportion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mix {
    put: u64,
    get: u64,
}

/// Everything about the load but where it goes.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) api: Api,
    pub(super) mix: Mix,
    pub(super) clients: usize,
    pub(super) rate: Option<u64>,
    pub(super) keys: u64,
    pub(super) value_size: usize,
    pub(super) duration: Duration,
    pub(super) warmup: Duration,
    pub(super) seed: u64,
}

impl Mix {
    /// All of one kind.
    pub(super) fn only(operation: Operation) -> Mix {
        match operation {
            Operation::Put => Mix { put: 1, get: 0 },
            Operation::Get => Mix { put: 0, get: 1 },
        }
    }

    /// Reads `put=20,get=80`.
    pub(super) fn parse(text: &str) -> Result<Mix, String> {
        const WEIGHT_MAX: u64 = 1_000_000;
        let mut mix = Mix { put: 0, get: 0 };
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').ok_or("write it like put=20,get=80")?;
            let weight: u64 = weight
                .parse()
                .map_err(|_| format!("`{weight}` is not a weight"))?;
            match name {
                _ if weight > WEIGHT_MAX => return Err(format!("weights are at most {WEIGHT_MAX}")),
                "put" => mix.put = weight,
                "get" => mix.get = weight,
                _ => return Err(format!("`{name}` is neither put nor get")),
            }
        }
        if mix.put + mix.get == 0 {
            Err("at least one weight must not be 0".to_string())
        } else {
            Ok(mix)
        }
    }

    fn choose(&self, random: u64) -> Operation {
        if random % (self.put + self.get) < self.put {
            Operation::Put
        } else {
            Operation::Get
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.put, self.get) {
            (_, 0) => write!(f, "put"),
            (0, _) => write!(f, "get"),
            (put, get) => write!(f, "put={put},get={get}"),
        }
    }
}

/// The requests of one client.
pub(super) struct Requests<'a> {
    plan: &'a Plan,
    random: u64,
    key: [u8; KEY_BYTES],
    value: Vec<u8>,
}

/// Four hexadecimal digits that spread keys over ranges, then the key's number.
pub(super) const KEY_BYTES: usize = 16;

impl<'a> Requests<'a> {
    pub(super) fn new(plan: &'a Plan, client: usize) -> Requests<'a> {
        let mut random = plan.seed ^ (client as u64 + 1).wrapping_mul(0xd1b5_4a32_d192_ed03);
        let value = (0..plan.value_size)
            .map(|_| (split_mix(&mut random) >> 56) as u8)
            .collect();
        Requests {
            plan,
            random,
            key: [0; KEY_BYTES],
            value,
        }
    }

    /// The next operation, its key and the value to put.
    pub(super) fn next(&mut self) -> (Operation, &[u8], &[u8]) {
        let operation = self.plan.mix.choose(split_mix(&mut self.random) >> 16);
        let number = split_mix(&mut self.random) % self.plan.keys;
        self.key = key(number);
        self.refresh_value();
        (operation, &self.key, &self.value)
    }

    /// The pair of a key's first write.
    pub(super) fn first(&mut self, number: u64) -> (&[u8], &[u8]) {
        self.key = key(number);
        self.refresh_value();
        (&self.key, &self.value)
    }

    /// Values differ from request to request, at a cost that does not depend on their size.
    fn refresh_value(&mut self) {
        let fresh = split_mix(&mut self.random).to_le_bytes();
        let length = fresh.len().min(self.value.len());
        self.value[..length].copy_from_slice(&fresh[..length]);
    }
}

/// Neighbouring numbers go to different prefixes, and every prefix gets as many.
pub(super) fn key(number: u64) -> [u8; KEY_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let spread = |number: u64| number.wrapping_mul(167) & 0xff;
    let prefix = spread(number) << 8 | spread(number >> 8);
    let mut key = [b'0'; KEY_BYTES];
    for (at, digit) in key[..4].iter_mut().enumerate() {
        *digit = DIGITS[(prefix >> (12 - 4 * at) & 15) as usize];
    }
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = DIGITS[(rest & 15) as usize];
        rest >>= 4;
    }
    key
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    pub(in super::super) fn plan(mix: &str) -> Plan {
        Plan {
            api: Api::Native,
            mix: Mix::parse(mix).expect("a mix"),
            clients: 2,
            rate: None,
            keys: 512,
            value_size: 64,
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
            seed: 1,
        }
    }

    #[test]
    fn keys_are_spread_evenly_over_the_prefixes() {
        let mut counts = BTreeMap::new();
        for number in 0..512 {
            let key = key(number);
            assert!(key.iter().all(u8::is_ascii_hexdigit));
            *counts.entry(key[..2].to_vec()).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 256);
        assert!(counts.values().all(|count| *count == 2));
        assert_eq!(&key(0x1f)[2..], b"0000000000001f");
        let finer: BTreeSet<_> = (0..100_000).map(|number| key(number)[..4].to_vec()).collect();
        assert_eq!(
            finer.len(),
            1 << 16,
            "there is a key for each of many ranges, too"
        );
    }

    #[test]
    fn mixes_keep_their_proportion() {
        let plan = plan("put=1,get=3");
        let mut requests = Requests::new(&plan, 0);
        let puts = (0..10_000)
            .filter(|_| requests.next().0 == Operation::Put)
            .count();
        assert!((2_300..2_700).contains(&puts), "{puts}");
        assert_eq!(plan.mix.to_string(), "put=1,get=3");
        assert_eq!(Mix::parse("get=7").expect("a mix").to_string(), "get");
    }

    #[test]
    fn clients_ask_different_things_and_the_same_again() {
        let plan = plan("put=1");
        let ask = |client| {
            let mut requests = Requests::new(&plan, client);
            (0..9).map(|_| requests.next().1.to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(ask(0), ask(0));
        assert_ne!(ask(0), ask(1));
    }
}
