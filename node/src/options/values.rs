//! From text to typed option values: sizes, durations, addresses, member lists, key lists. Pure.
//! An error here is the problem alone; `options` adds the key and where the text came from.

use bytes::Bytes;
use multiraft::NodeId;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

const TIME_UNITS: [(&str, u64); 5] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
];

/// A whole number in this span, both ends included.
pub fn count(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let number: u64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a whole number"))?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(format!("{number} is out of bounds: use {least} to {most}"))
    }
}

/// A number of bytes: `64MiB`, `1 GB`, `4096`.
pub fn size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZE_UNITS).ok_or_else(|| format!("`{text}` is not a size: write it like 64MiB or 4096"))
}

/// A duration: `250ms`, `10s`, `5m`. A unit is required.
pub fn duration(text: &str) -> Result<Duration, String> {
    let micros = scaled(text, &TIME_UNITS);
    micros
        .map(Duration::from_micros)
        .ok_or_else(|| format!("`{text}` is not a duration: write it like 250ms, 10s or 5m"))
}

/// A duration that is not 0.
pub fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!(
            "`{text}` is no time at all: write it like 250ms, 10s or 5m"
        )),
        some => Ok(some),
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// `true` or `false` (also `on`/`off`, `1`/`0`, for environments).
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "on" | "1" | "yes" => Ok(true),
        "false" | "off" | "0" | "no" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// Levels, alone or per module: `info`, `warn,transport_quic=debug`. A word alone must be a level: a mistyped one
/// would be taken for a module and silence everything.
pub fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let mut parts = text.split(',').map(str::trim);
    match parts.find(|part| !is_level(part.rsplit('=').next().unwrap_or(part))) {
        None => Ok(text.to_string()),
        Some(bad) => Err(format!(
            "`{bad}` is not a level: use error, warn, info, debug, trace or off, or module=level"
        )),
    }
}

/// A socket address to listen on: `127.0.0.1:7400`, `[::1]:7400`.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not an address to listen on: write it like 127.0.0.1:7400"))
}

/// `host:port` as others reach it; a name is allowed.
pub fn host_port(text: &str) -> Result<String, String> {
    let sound = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && port.parse::<u16>().is_ok_and(|port| port > 0)
            && !text.contains(char::is_whitespace)
    });
    if sound {
        Ok(text.to_string())
    } else {
        Err(format!("`{text}` is not host:port"))
    }
}

/// `1=host:port,2=host:port,...`, in order of node id.
pub fn members(text: &str) -> Result<Vec<(NodeId, String)>, String> {
    let mut members = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (node, at) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not a member: write it like 1=host:port"))?;
        let node = NodeId(count(node.trim(), 1, u64::MAX)?);
        if members.insert(node, host_port(at.trim())?).is_some() {
            return Err(format!("node {} is named twice", node.0));
        }
    }
    Ok(members.into_iter().collect())
}

/// A comma-separated list of keys; see [`key`].
pub fn keys(text: &str) -> Result<Vec<Bytes>, String> {
    text.split(',').filter(|part| !part.is_empty()).map(key).collect()
}

/// One key: its UTF-8 text, or `hex:00ff` for any bytes.
pub fn key(text: &str) -> Result<Bytes, String> {
    match text.strip_prefix("hex:") {
        Some(digits) => unhex(digits).ok_or_else(|| format!("`{text}` is not pairs of hexadecimal digits")),
        None => Ok(Bytes::copy_from_slice(text.as_bytes())),
    }
}

/// Bytes from pairs of hexadecimal digits.
pub fn unhex(digits: &str) -> Option<Bytes> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| match pair {
        [high, low] => {
            let digit = |c: u8| (c as char).to_digit(16);
            Some((digit(*high)? * 16 + digit(*low)?) as u8)
        }
        _ => None,
    };
    pairs.map(byte).collect()
}

/// Lower-case hexadecimal digits of these bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units_of_both_kinds() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("64 mib"), Ok(64 << 20));
        assert_eq!(size("1GB"), Ok(1_000_000_000));
        assert_eq!(size("4096"), Ok(4096));
        for bad in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "64Mb/s",
            "99999999999999999999",
            "99999999999GiB",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_log_filter_is_made_of_levels() {
        for good in [
            "info",
            "WARN",
            "info,transport_quic=debug",
            "off, flotilla::server=trace",
        ] {
            assert_eq!(log_filter(good).as_deref(), Ok(good));
        }
        for bad in ["", "loud", "info,", "transport_quic", "info,transport_quic=loud"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for bad in ["10", "s", "1.5s", "10 days", ""] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn members_are_ordered_and_unique() {
        let expected = vec![(NodeId(1), "a:1".to_string()), (NodeId(2), "[::1]:2".to_string())];
        assert_eq!(members("2=[::1]:2, 1=a:1"), Ok(expected));
        for bad in [
            "1",
            "1=a",
            "1=a:0",
            "1=:5",
            "0=a:1",
            "x=a:1",
            "1=a:1,1=b:2",
            "1=a b:3",
        ] {
            assert!(members(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_may_be_hexadecimal() {
        assert_eq!(
            keys("a,hex:00ff"),
            Ok(vec![Bytes::from("a"), Bytes::from(&[0, 255][..])])
        );
        assert!(keys("hex:0").is_err());
        assert!(keys("hex:zz").is_err());
        assert_eq!(hex(&[0, 255]), "00ff");
    }
}
