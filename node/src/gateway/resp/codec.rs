//! Bytes to commands: arrays of bulk strings, or inline lines. Arguments are positions in the query buffer; nothing is
//! copied. Incomplete input is resumed where it stopped. What a command means is not decided here.

use super::limits::{
    ARGUMENTS_MAX, ARGUMENTS_MAX_UNAUTHENTICATED, BULK_BYTES_MAX, BULK_BYTES_MAX_UNAUTHENTICATED,
    COMMAND_BYTES_MAX, LINE_BYTES_MAX,
};
use crate::kv::number;
use std::borrow::Cow;
use std::ops::Range;

/// Input after which the stream can not be understood any more: the error is sent, then the connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProtocolError(pub(super) Cow<'static, [u8]>);

fn broken<T>(text: &'static str) -> Result<T, ProtocolError> {
    Err(ProtocolError(Cow::Borrowed(text.as_bytes())))
}

/// The arguments of one command, its name first.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'a> {
    bytes: &'a [u8],
    ranges: &'a [Range<usize>],
}

impl<'a> Arguments<'a> {
    /// Those that lie here.
    pub(super) fn new(bytes: &'a [u8], ranges: &'a [Range<usize>]) -> Arguments<'a> {
        Arguments { bytes, ranges }
    }

    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The argument at this position; the caller has checked the number of arguments.
    pub(super) fn get(&self, at: usize) -> &'a [u8] {
        &self.bytes[self.ranges[at].clone()]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.ranges.iter().map(move |range| &bytes[range.clone()])
    }
}

/// Reads one command after the other.
#[derive(Default)]
pub(super) struct Decoder {
    /// Arguments so far.
    ranges: Vec<Range<usize>>,
    /// Arguments still to come; None: the header has not been read.
    missing: Option<usize>,
    /// The length of the argument whose header has been read.
    bulk: Option<usize>,
    /// Where to go on in the buffer.
    at: usize,
    /// The unquoted arguments of an inline command.
    inline: Option<Vec<u8>>,
}

impl Decoder {
    /// Reads on in a buffer that starts with the current command. Once it is complete: its length in the buffer, and
    /// `arguments` gives what it says (nothing, for an empty line). Then the buffer is advanced and `next` called.
    pub(super) fn decode(&mut self, buffer: &[u8], trusted: bool) -> Result<Option<usize>, ProtocolError> {
        let Some(first) = buffer.first() else {
            return Ok(None);
        };
        if *first != b'*' {
            return self.decode_inline(buffer);
        }
        if self.missing.is_none() && !self.decode_header(buffer, trusted)? {
            return Ok(None);
        }
        while self.missing.is_some_and(|missing| missing > 0) {
            if !self.decode_argument(buffer, trusted)? {
                return Ok(None);
            }
        }
        Ok(Some(self.at))
    }

    /// The arguments of the complete command.
    pub(super) fn arguments<'a>(&'a self, buffer: &'a [u8]) -> Arguments<'a> {
        Arguments {
            bytes: self.inline.as_deref().unwrap_or(buffer),
            ranges: &self.ranges,
        }
    }

    /// Forgets the command that was complete.
    pub(super) fn next(&mut self) {
        self.ranges.clear();
        self.ranges.shrink_to(64);
        self.missing = None;
        self.bulk = None;
        self.at = 0;
        self.inline = None;
    }

    /// Bytes that are certainly still to come for this command.
    pub(super) fn wanted(&self, buffered: usize) -> usize {
        self.bulk
            .map_or(0, |length| (self.at + length + 2).saturating_sub(buffered))
    }

    fn decode_header(&mut self, buffer: &[u8], trusted: bool) -> Result<bool, ProtocolError> {
        let Some((line, end)) = line_at(buffer, 1) else {
            return more_of_line(buffer.len(), "too big mbulk count string");
        };
        let count = match number::parse(line) {
            None => return broken("invalid multibulk length"),
            Some(count) => usize::try_from(count).unwrap_or(0),
        };
        if count > ARGUMENTS_MAX {
            return broken("invalid multibulk length");
        }
        if count > ARGUMENTS_MAX_UNAUTHENTICATED && !trusted {
            return broken("unauthenticated multibulk length");
        }
        self.missing = Some(count);
        self.at = end;
        Ok(true)
    }

    fn decode_argument(&mut self, buffer: &[u8], trusted: bool) -> Result<bool, ProtocolError> {
        let length = match self.bulk {
            Some(length) => length,
            None => match self.decode_length(buffer, trusted)? {
                Some(length) => length,
                None => return Ok(false),
            },
        };
        let end = self.at + length;
        if buffer.len() < end + 2 {
            return Ok(false);
        }
        self.ranges.push(self.at..end);
        self.at = end + 2;
        self.bulk = None;
        self.missing = self.missing.map(|missing| missing - 1);
        Ok(true)
    }

    fn decode_length(&mut self, buffer: &[u8], trusted: bool) -> Result<Option<usize>, ProtocolError> {
        let Some((line, end)) = line_at(buffer, self.at) else {
            more_of_line(buffer.len() - self.at, "too big bulk count string")?;
            return Ok(None);
        };
        if buffer[self.at] != b'$' {
            let error = [b"expected '$', got '", &buffer[self.at..=self.at], b"'"].concat();
            return Err(ProtocolError(error.into()));
        }
        let length = number::parse(&line[1..]).and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|length| *length <= BULK_BYTES_MAX) else {
            return broken("invalid bulk length");
        };
        if length > BULK_BYTES_MAX_UNAUTHENTICATED && !trusted {
            return broken("unauthenticated bulk length");
        }
        if end + length > COMMAND_BYTES_MAX {
            return broken("too big command");
        }
        self.at = end;
        self.bulk = Some(length);
        Ok(Some(length))
    }

    fn decode_inline(&mut self, buffer: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let searched = &buffer[..buffer.len().min(LINE_BYTES_MAX)];
        let Some(newline) = searched[self.at..].iter().position(|byte| *byte == b'\n') else {
            self.at = searched.len();
            more_of_line(buffer.len(), "too big inline request")?;
            return Ok(None);
        };
        let newline = self.at + newline;
        let line = buffer[..newline]
            .strip_suffix(b"\r")
            .unwrap_or(&buffer[..newline]);
        let (text, ranges) = match split_words(line) {
            Some(words) => words,
            None => return broken("unbalanced quotes in request"),
        };
        self.inline = Some(text);
        self.ranges = ranges;
        Ok(Some(newline + 1))
    }
}

/// The line that begins at `start`, and where the next one begins.
fn line_at(buffer: &[u8], start: usize) -> Option<(&[u8], usize)> {
    let rest = buffer.get(start..)?;
    let searched = &rest[..rest.len().min(LINE_BYTES_MAX)];
    let end = start + searched.iter().position(|byte| *byte == b'\r')?;
    (buffer.len() >= end + 2).then(|| (&buffer[start..end], end + 2))
}

fn more_of_line(length: usize, error: &'static str) -> Result<bool, ProtocolError> {
    if length > LINE_BYTES_MAX {
        broken(error)
    } else {
        Ok(false)
    }
}

/// Words with shell-like quotes: `"..."` with escapes, `'...'` with `\'`. None: a quote is not closed.
fn split_words(line: &[u8]) -> Option<(Vec<u8>, Vec<Range<usize>>)> {
    let (mut text, mut ranges) = (Vec::with_capacity(line.len()), Vec::new());
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let start = text.len();
        rest = read_word(rest, &mut text)?.trim_ascii_start();
        ranges.push(start..text.len());
    }
    Some((text, ranges))
}

/// Reads one word; what follows it.
fn read_word<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return Some(rest),
            [byte, ..] if byte.is_ascii_whitespace() || *byte == 0 => return Some(&rest[1..]),
            [b'"', quoted @ ..] => return end_of_word(read_double_quoted(quoted, text)?),
            [b'\'', quoted @ ..] => return end_of_word(read_single_quoted(quoted, text)?),
            [byte, after @ ..] => {
                text.push(*byte);
                rest = after;
            }
        }
    }
}

/// A closing quote must end the word.
fn end_of_word(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest)
}

fn read_double_quoted<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, after) = match rest {
            [] => return None,
            [b'"', after @ ..] => return Some(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), after)
            }
            [b'\\', escaped, after @ ..] => (unescape(*escaped), after),
            [byte, after @ ..] => (*byte, after),
        };
        text.push(byte);
        rest = after;
    }
}

fn read_single_quoted<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, after) = match rest {
            [] => return None,
            [b'\'', after @ ..] => return Some(after),
            [b'\\', b'\'', after @ ..] => (b'\'', after),
            [byte, after @ ..] => (*byte, after),
        };
        text.push(byte);
        rest = after;
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Commands = Vec<Vec<Vec<u8>>>;

    /// Feeds pieces; the commands found, and the error that ended it.
    fn feed(pieces: &[&[u8]], trusted: bool) -> (Commands, Option<String>) {
        let (mut decoder, mut buffer, mut commands) = (Decoder::default(), Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&buffer, trusted) {
                    Ok(None) => break,
                    Err(error) => return (commands, Some(String::from_utf8_lossy(&error.0).into_owned())),
                    Ok(Some(length)) => {
                        let arguments = decoder.arguments(&buffer);
                        commands.push(arguments.iter().map(<[u8]>::to_vec).collect());
                        buffer.drain(..length);
                        decoder.next();
                    }
                }
            }
        }
        (commands, None)
    }

    const STREAM: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n\r\n*0\r\n*-1\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n*1\r\n\
        set \"a\\x41\\n\" 'b\\'c' d\n*1\r\n$4\r\nPING\r\n";

    #[test]
    fn a_stream_reads_the_same_wherever_it_is_cut() {
        let (whole, error) = feed(&[STREAM], true);
        assert_eq!(error, None);
        assert_eq!(whole.len(), 8);
        assert_eq!(whole[5], [b"SET".to_vec(), b"".to_vec(), b"\r\n*1".to_vec()]);
        assert_eq!(
            whole[6],
            [b"set".to_vec(), b"aA\n".to_vec(), b"b'c".to_vec(), b"d".to_vec()]
        );
        for cut in 0..=STREAM.len() {
            assert_eq!(
                feed(&[&STREAM[..cut], &STREAM[cut..]], true).0,
                whole,
                "cut at {cut}"
            );
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(feed(&bytes, true).0, whole);
    }

    #[test]
    fn what_breaks_the_protocol_is_named() {
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        let long_count = [b"*", &long[..]].concat();
        let long_bulk = [b"*1\r\n$", &long[..]].concat();
        let cases: [(&[u8], bool, &str); 13] = [
            (b"*x\r\n", true, "invalid multibulk length"),
            (b"*99999999\r\n", true, "invalid multibulk length"),
            (b"*1\r\n:1\r\n", true, "expected '$', got ':'"),
            (b"*1\r\n$-1\r\n", true, "invalid bulk length"),
            (b"*1\r\n$99999999\r\n", true, "invalid bulk length"),
            (b"*1\r\n$1x\r\n", true, "invalid bulk length"),
            (b"*11\r\n", false, "unauthenticated multibulk length"),
            (b"*1\r\n$16385\r\n", false, "unauthenticated bulk length"),
            (b"get \"a\r\n", true, "unbalanced quotes in request"),
            (b"get 'a'b\r\n", true, "unbalanced quotes in request"),
            (&long, true, "too big inline request"),
            (&long_count, true, "too big mbulk count string"),
            (&long_bulk, true, "too big bulk count string"),
        ];
        for (input, trusted, expected) in cases {
            assert_eq!(feed(&[input], trusted).1.as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_command_that_is_too_long_in_sum_is_refused_before_it_is_read() {
        let mut input = b"*4\r\n".to_vec();
        for _ in 0..2 {
            input.extend_from_slice(format!("${BULK_BYTES_MAX}\r\n").as_bytes());
            input.resize(input.len() + BULK_BYTES_MAX, b'x');
            input.extend_from_slice(b"\r\n");
        }
        input.extend_from_slice(b"$16\r\n");
        assert_eq!(feed(&[&input], true).1.as_deref(), Some("too big command"));
    }

    #[test]
    fn garbage_never_panics() {
        let mut seed = 0x2545_F491_4F6C_DD1Du64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..24)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    b"*$0123\r\n\"'\\x -ab\0"[(seed % 17) as usize]
                })
                .collect();
            feed(&[&bytes[..7], &bytes[7..]], true);
        }
    }
}
