//! Until when a certificate is valid. Reads just that much of X.509's DER; whether the certificate is genuine and
//! valid now is the TLS library's business.

use rustls::pki_types::CertificateDer;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of the certificate's validity; None when the bytes are no certificate, or one from before 1970.
pub fn valid_until(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let mut outer = certificate.as_ref();
    let mut whole = element(&mut outer, SEQUENCE)?;
    let mut signed = element(&mut whole, SEQUENCE)?;
    if signed.first() == Some(&VERSION) {
        element(&mut signed, VERSION)?;
    }
    element(&mut signed, INTEGER)?; // serial number
    element(&mut signed, SEQUENCE)?; // signature algorithm
    element(&mut signed, SEQUENCE)?; // issuer
    let mut validity = element(&mut signed, SEQUENCE)?;
    time(&mut validity)?;
    time(&mut validity)
}

/// Takes the next element, which must have this tag, and returns its content.
fn element<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&[found, first], rest) = input.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            let length = bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *input = rest;
    (found == tag).then_some(content)
}

fn time(input: &mut &[u8]) -> Option<SystemTime> {
    if input.first() == Some(&UTC_TIME) {
        let text = std::str::from_utf8(element(input, UTC_TIME)?).ok()?;
        let year = number(text, 0..2)?;
        return moment(if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?);
    }
    let text = std::str::from_utf8(element(input, GENERALIZED_TIME)?).ok()?;
    moment(number(text, 0..4)?, text.get(4..)?)
}

/// `rest` is MMDDHHMMSSZ: the only form that certificates may use.
fn moment(year: u64, rest: &str) -> Option<SystemTime> {
    if rest.len() != 11 || !rest.ends_with('Z') {
        return None;
    }
    let at = |from: usize| number(rest, from..from + 2);
    let days = days_since_1970(year, at(0)?, at(2)?)?;
    let seconds = ((days * 24 + at(4)?) * 60 + at(6)?) * 60 + at(8)?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn number(text: &str, range: std::ops::Range<usize>) -> Option<u64> {
    text.get(range)?.parse().ok()
}

/// Counts from March on, so that the leap day comes last.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    days.checked_sub(719_469)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn made(year: i32, month: u8, day: u8) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["x".to_owned()]).expect("a name");
        params.not_after = date_time_ymd(year, month, day);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").der().clone()
    }

    #[test]
    fn the_end_is_read_in_both_forms_of_time() {
        // From `date -u -d ... +%s`.
        for (year, month, day, seconds) in [
            (2000, 2, 29, 951_782_400),
            (2026, 11, 23, 1_795_392_000),
            (2049, 12, 31, 2_524_521_600),
            (2050, 1, 1, 2_524_608_000),
            (2400, 3, 1, 13_574_649_600_u64),
        ] {
            let until = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(
                valid_until(&made(year, month, day)),
                Some(until),
                "{year}-{month}-{day}"
            );
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = made(2030, 1, 1);
        assert_eq!(valid_until(&CertificateDer::from_slice(b"nonsense")), None);
        for length in 0..whole.len() {
            assert_eq!(valid_until(&CertificateDer::from_slice(&whole[..length])), None);
        }
        for at in 0..200 {
            for value in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut bytes = whole.to_vec();
                bytes[at] = value;
                let _ = valid_until(&CertificateDer::from_slice(&bytes));
            }
        }
    }
}
