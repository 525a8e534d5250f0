//! Sums of decimal numbers as Redis computes them: 64 bits of mantissa (x87 extended precision), rounded to even,
//! printed with 17 digits after the point and without trailing zeros. Exact integer arithmetic: the same on every
//! machine. Unlike Redis, texts are limited to `limits::FLOAT_TEXT_MAX` bytes and magnitudes to what fits there.

use super::limits::FLOAT_TEXT_MAX;
use std::cmp::Ordering;

/// Why there is no sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// One of the texts is not a number.
    NotFloat,
    /// The sum is infinite or not a number.
    NotFinite,
}

/// The text of the sum of two numbers.
pub fn add(first: &[u8], second: &[u8]) -> Result<String, Error> {
    let (first, second) = (parse(first)?, parse(second)?);
    let (Parsed::Finite(first), Parsed::Finite(second)) = (first, second) else {
        return Err(Error::NotFinite);
    };
    let text = first.plus(&second).text();
    if text.len() > FLOAT_TEXT_MAX {
        Err(Error::NotFinite)
    } else {
        Ok(text)
    }
}

/// Decimal exponents beyond this are refused (large) or zero (small).
const EXPONENT_MAX: i64 = 1200;
const EXPONENT_MIN: i64 = -EXPONENT_MAX;
const _: () = assert!(FLOAT_TEXT_MAX < EXPONENT_MAX as usize);
/// Smaller decimals vanish in 80 bits, and are refused for it: the smallest float is 2^-16445.
const DECIMAL_MAGNITUDE_MIN: i64 = -4950;
/// The same for hexadecimal numbers.
const BINARY_MAGNITUDE_MIN: i64 = -16_445;
/// As `EXPONENT_MAX`, for hexadecimal numbers.
const BINARY_EXPONENT_MAX: i64 = 8192;
const BINARY_EXPONENT_MIN: i64 = -BINARY_EXPONENT_MAX;
/// Digits after the point.
const FRACTION_DIGITS: usize = 17;
/// 10^17.
const FRACTION_SCALE: u64 = 100_000_000_000_000_000;
/// Bits of a mantissa.
const MANTISSA_BITS: usize = 64;

enum Parsed {
    Finite(Float),
    Infinite,
}

/// `mantissa * 2^exponent`, negated if `negative`. Zero has mantissa 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Float {
    negative: bool,
    mantissa: u64,
    exponent: i64,
}

fn parse(text: &[u8]) -> Result<Parsed, Error> {
    if text.is_empty() || text.len() > FLOAT_TEXT_MAX {
        return Err(Error::NotFloat);
    }
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
        return Ok(Parsed::Infinite);
    }
    let float = match rest {
        [b'0', b'x' | b'X', hex @ ..] => parse_hex(hex),
        decimal => parse_decimal(decimal),
    };
    float
        .map(|float| Parsed::Finite(Float { negative, ..float }))
        .ok_or(Error::NotFloat)
}

fn parse_decimal(text: &[u8]) -> Option<Float> {
    let (digits, mark) = split_at_mark(text, b'e');
    let (number, fraction) = read_digits(digits, 10)?;
    let exponent = mark.map_or(Some(0), read_exponent)? - fraction;
    // Counts leading zeros too: close enough at magnitudes that no sum shows.
    let magnitude = exponent + i64::try_from(digits.len()).ok()?;
    match exponent {
        _ if number.is_zero() => Some(Float::ZERO),
        _ if magnitude < DECIMAL_MAGNITUDE_MIN => None,
        ..EXPONENT_MIN => Some(Float::ZERO),
        EXPONENT_MIN..0 => Some(quotient(&number, &Natural::power_of_ten(exponent.unsigned_abs()))),
        0..=EXPONENT_MAX => Some(Float::round(
            &number.times(&Natural::power_of_ten(exponent.unsigned_abs())),
            0,
            false,
        )),
        _ => None,
    }
}

fn parse_hex(text: &[u8]) -> Option<Float> {
    let (digits, mark) = split_at_mark(text, b'p');
    let (number, fraction) = read_digits(digits, 16)?;
    let exponent = mark.map_or(Some(0), read_exponent)? - 4 * fraction;
    match exponent {
        _ if number.is_zero() => Some(Float::ZERO),
        ..BINARY_MAGNITUDE_MIN => None,
        BINARY_MAGNITUDE_MIN..BINARY_EXPONENT_MIN => Some(Float::ZERO),
        BINARY_EXPONENT_MIN..=BINARY_EXPONENT_MAX => Some(Float::round(&number, exponent, false)),
        _ => None,
    }
}

/// The digits, and what follows the exponent mark if there is one.
fn split_at_mark(text: &[u8], mark: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| byte.eq_ignore_ascii_case(&mark)) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Digits with at most one point: their number without the point, and how many follow it.
fn read_digits(text: &[u8], base: u32) -> Option<(Natural, i64)> {
    let (mut number, mut count, mut point) = (Natural::default(), 0, None);
    for byte in text {
        if *byte == b'.' && point.is_none() {
            point = Some(count);
            continue;
        }
        number.multiply_add(base, char::from(*byte).to_digit(base)?);
        count += 1;
    }
    (count > 0).then(|| (number, point.map_or(0, |point| count - point)))
}

/// A signed decimal exponent; absurd ones saturate.
fn read_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() {
        return None;
    }
    let magnitude = digits.iter().try_fold(0i64, |value, digit| {
        digit
            .is_ascii_digit()
            .then(|| (value * 10 + i64::from(digit - b'0')).min(1_000_000))
    })?;
    Some(if negative { -magnitude } else { magnitude })
}

/// `number / divisor`, rounded.
fn quotient(number: &Natural, divisor: &Natural) -> Float {
    let wanted = divisor.bits() + MANTISSA_BITS + 2;
    let shift = wanted.saturating_sub(number.bits());
    let (quotient, exact) = number.shifted(shift).divided(divisor);
    Float::round(
        &quotient,
        -i64::try_from(shift).expect("a few thousand bits"),
        !exact,
    )
}

impl Float {
    const ZERO: Float = Float {
        negative: false,
        mantissa: 0,
        exponent: 0,
    };

    /// The nearest float to `number * 2^exponent` (and a bit more, if `sticky`), ties to even.
    fn round(number: &Natural, exponent: i64, sticky: bool) -> Float {
        let excess = number.bits().saturating_sub(MANTISSA_BITS);
        let mut exponent = exponent + i64::try_from(excess).expect("a few thousand bits");
        let mut mantissa = number.low_u64_after(excess);
        let half = excess > 0 && number.bit(excess - 1);
        let rest = sticky || (excess > 1 && number.has_bits_below(excess - 1));
        if half && (rest || mantissa & 1 == 1) {
            (mantissa, exponent) = match mantissa.checked_add(1) {
                Some(mantissa) => (mantissa, exponent),
                None => (1 << 63, exponent + 1),
            };
        }
        Float {
            negative: false,
            mantissa,
            exponent,
        }
    }

    fn plus(&self, other: &Float) -> Float {
        let low = match (self.mantissa, other.mantissa) {
            (_, 0) => return *self,
            (0, _) => return *other,
            _ => self.exponent.min(other.exponent),
        };
        let aligned = |float: &Float| {
            let shift = usize::try_from(float.exponent - low).expect("low is the smaller exponent");
            Natural::from(float.mantissa).shifted(shift)
        };
        let (first, second) = (aligned(self), aligned(other));
        if self.negative == other.negative {
            return Float {
                negative: self.negative,
                ..Float::round(&first.plus(&second), low, false)
            };
        }
        match first.compare(&second) {
            Ordering::Equal => Float {
                negative: false,
                mantissa: 0,
                exponent: 0,
            },
            Ordering::Greater => Float {
                negative: self.negative,
                ..Float::round(&first.minus(&second), low, false)
            },
            Ordering::Less => Float {
                negative: other.negative,
                ..Float::round(&second.minus(&first), low, false)
            },
        }
    }

    /// 17 digits after the point, then trailing zeros cut.
    fn text(&self) -> String {
        let mut scaled = Natural::from(self.mantissa).times(&Natural::from(FRACTION_SCALE));
        match usize::try_from(self.exponent) {
            Ok(shift) => scaled = scaled.shifted(shift),
            Err(_) => {
                let shift = usize::try_from(-self.exponent).expect("negative");
                scaled = scaled.rounded_down_by(shift);
            }
        }
        let digits = scaled.decimal();
        let padded = format!("{digits:0>width$}", width = FRACTION_DIGITS + 1);
        let (whole, fraction) = padded.split_at(padded.len() - FRACTION_DIGITS);
        let fraction = fraction.trim_end_matches('0');
        let sign = if self.negative && !scaled.is_zero() {
            "-"
        } else {
            ""
        };
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{sign}{whole}{point}{fraction}")
    }
}

/// A natural number of any size: 32-bit digits, the lowest first, no zeros at the top.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Natural(Vec<u32>);

impl From<u64> for Natural {
    fn from(value: u64) -> Natural {
        Natural(vec![low_half(value), low_half(value >> 32)]).trimmed()
    }
}

impl Natural {
    fn trimmed(mut self) -> Natural {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn bits(&self) -> usize {
        self.0
            .last()
            .map_or(0, |top| self.0.len() * 32 - top.leading_zeros() as usize)
    }

    fn bit(&self, at: usize) -> bool {
        self.0
            .get(at / 32)
            .is_some_and(|digit| digit >> (at % 32) & 1 == 1)
    }

    fn has_bits_below(&self, end: usize) -> bool {
        (0..end.min(self.bits())).any(|at| self.bit(at))
    }

    /// 64 bits, the lowest of which is bit `at`.
    fn low_u64_after(&self, at: usize) -> u64 {
        (0..MANTISSA_BITS).fold(0, |value, bit| value | u64::from(self.bit(at + bit)) << bit)
    }

    fn multiply_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for digit in &mut self.0 {
            carry += u64::from(*digit) * u64::from(factor);
            *digit = low_half(carry);
            carry >>= 32;
        }
        if carry > 0 {
            self.0.push(low_half(carry));
        }
    }

    fn power_of_ten(exponent: u64) -> Natural {
        let mut power = Natural::from(1);
        for _ in 0..exponent {
            power.multiply_add(10, 0);
        }
        power
    }

    fn times(&self, other: &Natural) -> Natural {
        let mut product = vec![0u32; self.0.len() + other.0.len()];
        for (shift, factor) in other.0.iter().enumerate() {
            let mut carry = 0u64;
            for (at, digit) in self.0.iter().enumerate() {
                carry += u64::from(*digit) * u64::from(*factor) + u64::from(product[at + shift]);
                product[at + shift] = low_half(carry);
                carry >>= 32;
            }
            product[shift + self.0.len()] = low_half(carry);
        }
        Natural(product).trimmed()
    }

    fn shifted(&self, bits: usize) -> Natural {
        let (digits, bits) = (bits / 32, bits % 32);
        let mut shifted = vec![0u32; digits];
        let mut carry = 0u64;
        for digit in &self.0 {
            carry |= u64::from(*digit) << bits;
            shifted.push(low_half(carry));
            carry >>= 32;
        }
        shifted.push(low_half(carry));
        Natural(shifted).trimmed()
    }

    /// Divided by `2^bits`, rounded to the nearest, ties to even.
    fn rounded_down_by(&self, bits: usize) -> Natural {
        let kept = self.bits().saturating_sub(bits);
        let mut quotient = Natural(vec![0; kept.div_ceil(32)]);
        for at in 0..kept {
            quotient.0[at / 32] |= u32::from(self.bit(at + bits)) << (at % 32);
        }
        let up = bits > 0 && self.bit(bits - 1) && (self.has_bits_below(bits - 1) || self.bit(bits));
        let quotient = quotient.trimmed();
        if up {
            quotient.plus(&Natural::from(1))
        } else {
            quotient
        }
    }

    fn plus(&self, other: &Natural) -> Natural {
        let mut carry = 0u64;
        let mut sum = Vec::with_capacity(self.0.len().max(other.0.len()) + 1);
        for at in 0..self.0.len().max(other.0.len()) {
            carry += u64::from(self.digit(at)) + u64::from(other.digit(at));
            sum.push(low_half(carry));
            carry >>= 32;
        }
        sum.push(low_half(carry));
        Natural(sum).trimmed()
    }

    /// The difference; `other` is not larger.
    fn minus(&self, other: &Natural) -> Natural {
        let mut borrow = false;
        let mut difference = Vec::with_capacity(self.0.len());
        for at in 0..self.0.len() {
            let (value, first) = self.0[at].overflowing_sub(other.digit(at));
            let (value, second) = value.overflowing_sub(u32::from(borrow));
            borrow = first || second;
            difference.push(value);
        }
        assert!(!borrow, "subtracted a larger number");
        Natural(difference).trimmed()
    }

    fn digit(&self, at: usize) -> u32 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn compare(&self, other: &Natural) -> Ordering {
        self.0
            .len()
            .cmp(&other.0.len())
            .then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// The quotient, and whether there is no remainder. One bit at a time: divisors are a few thousand bits at most.
    fn divided(&self, divisor: &Natural) -> (Natural, bool) {
        let mut quotient = vec![0u32; self.0.len()];
        let mut rest = Natural::default();
        for at in (0..self.bits()).rev() {
            rest = rest.shifted(1);
            if self.bit(at) {
                rest = rest.plus(&Natural::from(1));
            }
            if rest.compare(divisor) != Ordering::Less {
                rest = rest.minus(divisor);
                quotient[at / 32] |= 1 << (at % 32);
            }
        }
        (Natural(quotient).trimmed(), rest.is_zero())
    }

    fn decimal(&self) -> String {
        const CHUNK: u64 = 1_000_000_000;
        let mut rest = self.clone();
        let mut chunks = Vec::new();
        while !rest.is_zero() {
            let mut remainder = 0u64;
            for digit in rest.0.iter_mut().rev() {
                let value = remainder << 32 | u64::from(*digit);
                *digit = u32::try_from(value / CHUNK).expect("the remainder is smaller than the divisor");
                remainder = value % CHUNK;
            }
            chunks.push(remainder);
            rest = rest.trimmed();
        }
        let mut text = chunks.pop().unwrap_or(0).to_string();
        for chunk in chunks.iter().rev() {
            text.push_str(&format!("{chunk:09}"));
        }
        text
    }
}

/// The low 32 bits.
fn low_half(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::{Error, add};

    #[test]
    fn sums_print_as_redis_prints_them() {
        let cases = [
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "200", "5200"),
            ("0", "0.1", "0.1"),
            ("3.0e3", "0.0e-3", "3000"),
            ("0.1", "0.2", "0.3"),
            ("1", "-1.00000000000000001", "-0.00000000000000001"),
            ("-1", "1", "0"),
            ("1e18", "0.5", "1000000000000000000.5"),
            ("1e20", "1", "100000000000000000000"),
            (
                "123456789.123456789",
                "0.000000001",
                "123456789.12345678999554366",
            ),
            ("0x10", "0x1p-1", "16.5"),
            ("1e-4000", "1", "1"),
            (".5", "5.", "5.5"),
            ("-0", "0", "0"),
        ];
        for (first, second, sum) in cases {
            assert_eq!(
                add(first.as_bytes(), second.as_bytes()).as_deref(),
                Ok(sum),
                "{first} + {second}"
            );
        }
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for text in [
            "",
            " 1",
            "1 ",
            "1e",
            "1e+",
            ".",
            "abc",
            "nan",
            "0x",
            "1.2.3",
            "--1",
            "1e99999",
            "1e-99999",
            "0x1p-99999",
            "+",
        ] {
            assert_eq!(add(text.as_bytes(), b"1"), Err(Error::NotFloat), "{text:?}");
        }
        assert_eq!(add(b"inf", b"1"), Err(Error::NotFinite));
        assert_eq!(add(b"1", b"-Infinity"), Err(Error::NotFinite));
    }
}
