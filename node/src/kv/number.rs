//! Integers as text, with Redis's strict rules: no sign but `-`, no leading zeros, no spaces, 64 bits signed.

/// Parses a canonical signed integer.
pub fn parse(text: &[u8]) -> Option<i64> {
    match text {
        b"0" => Some(0),
        [b'-', digits @ ..] => canonical(digits)?.checked_neg_of(),
        digits => i64::try_from(canonical(digits)?).ok(),
    }
}

trait CheckedNegOf {
    fn checked_neg_of(self) -> Option<i64>;
}

impl CheckedNegOf for u64 {
    /// The negative of this magnitude, if it fits.
    fn checked_neg_of(self) -> Option<i64> {
        0i64.checked_sub_unsigned(self)
    }
}

/// The value of digits that start with 1 to 9.
fn canonical(digits: &[u8]) -> Option<u64> {
    if !matches!(digits.first(), Some(b'1'..=b'9')) || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// The canonical text of an integer, without an allocation.
pub struct Text {
    bytes: [u8; 20],
    start: usize,
}

impl Text {
    /// Writes the number.
    pub fn of(number: i64) -> Text {
        let mut text = Text {
            bytes: [0; 20],
            start: 20,
        };
        let mut rest = number.unsigned_abs();
        loop {
            text.push(b'0' + u8::try_from(rest % 10).expect("one digit"));
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            text.push(b'-');
        }
        text
    }

    fn push(&mut self, byte: u8) {
        self.start -= 1;
        self.bytes[self.start] = byte;
    }

    /// The digits.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_integers_parse() {
        for number in [0, 1, -1, 10, i64::MAX, i64::MIN, 123_456_789] {
            assert_eq!(parse(number.to_string().as_bytes()), Some(number));
            assert_eq!(Text::of(number).as_bytes(), number.to_string().as_bytes());
        }
        for text in [
            "",
            "-",
            "-0",
            "00",
            "01",
            "+1",
            " 1",
            "1 ",
            "1a",
            "9223372036854775808",
            "-9223372036854775809",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
