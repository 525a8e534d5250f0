//! How results look: tables for people, JSON for programs. Pure rendering over rows, and the few lines that print.

use crate::exit::Failure;
use crate::options::values::{hex, unhex};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// How results and errors are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// `{"apiVersion":"v1","kind":...,"items":[...]}`, errors as `{"error":{...}}` on stderr.
    Json,
}

/// How keys and values are written in arguments and tables. JSON has its own way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KeyFormat {
    /// Text; other bytes, and backslashes, as \xNN, \n, \t, \r, \\. Any bytes survive a round trip.
    #[default]
    Escaped,
    /// Text as it is; what is not UTF-8 cannot be told from its replacement.
    Utf8,
    /// Two hexadecimal digits a byte.
    Hex,
}

impl KeyFormat {
    /// The bytes as text.
    pub fn show(self, bytes: &[u8]) -> String {
        match self {
            KeyFormat::Escaped => escape(bytes),
            KeyFormat::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            KeyFormat::Hex => hex(bytes),
        }
    }

    /// The bytes an argument stands for.
    pub fn read(self, text: &str) -> Result<Vec<u8>, String> {
        match self {
            KeyFormat::Escaped => unescape(text),
            KeyFormat::Utf8 => Ok(text.as_bytes().to_vec()),
            KeyFormat::Hex => match unhex(text) {
                Some(bytes) => Ok(bytes.to_vec()),
                None => Err(format!("`{text}` is not pairs of hexadecimal digits")),
            },
        }
    }
}

/// Printable text stays; control characters, backslashes and whatever is not UTF-8 are written as escapes.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() => escape_bytes(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut text),
                c => text.push(c),
            }
        }
        escape_bytes(chunk.invalid(), &mut text);
    }
    text
}

fn escape_bytes(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        write!(text, "\\x{byte:02x}").expect("writing to a String cannot fail");
    }
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("`{text}`: a backslash begins \\xNN, \\n, \\r, \\t or \\\\");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let kind = rest.chars().next().ok_or_else(wrong)?;
        rest = &rest[kind.len_utf8()..];
        match kind {
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let byte = rest.get(..2).and_then(unhex).ok_or_else(wrong)?;
                bytes.extend_from_slice(&byte);
                rest = &rest[2..];
            }
            _ => return Err(wrong()),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// Bytes in JSON: `{"utf8":...}` if they are, else `{"hex":...}`.
pub fn json_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "utf8": text }),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

/// A result as JSON text.
pub fn json_list(kind: &str, items: Vec<Value>) -> String {
    json!({ "apiVersion": "v1", "kind": kind, "items": items }).to_string()
}

/// A column's name and whether it holds numbers.
pub type Column = (&'static str, Align);

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table without borders, no trailing blanks, no newline at the end.
pub fn table(columns: &[Column], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|(name, _)| *name));
    table.add_rows(rows);
    for (i, (_, align)) in columns.iter().enumerate() {
        let column = table.column_mut(i).expect("every column has a header");
        column.set_padding((0, 2));
        if *align == Align::Right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A failure as text or JSON, without a newline at the end.
pub fn render_failure(failure: &Failure, format: Format) -> String {
    match format {
        Format::Table => format!("error: {failure}"),
        Format::Json => json!({ "error": {
            "code": failure.code.name(),
            "message": failure.message,
            "hint": failure.hint,
            "retryable": failure.code.is_retryable(),
        }})
        .to_string(),
    }
}

/// Prints a failure on stderr; `error:` is red on a terminal unless `NO_COLOR` is set.
pub fn print_failure(failure: &Failure, format: Format) {
    let mut text = render_failure(failure, format);
    let colourful = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    if format == Format::Table && colourful {
        text = text.replacen("error:", "\x1b[1;31merror:\x1b[0m", 1);
    }
    // Nowhere is left to report that stderr is gone; the exit code still tells.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a result on stdout. A reader that went away is not our failure.
pub fn print(text: &str) {
    print_bytes(text.as_bytes());
}

/// Prints a result and a newline on stdout as it is.
pub fn print_bytes(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.write_all(b"\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Code;

    #[test]
    fn escapes_survive_a_round_trip() {
        for bytes in [
            &b"plain"[..],
            b"\x00\xff\n\\",
            "grüße".as_bytes(),
            b"a\xc3",
            b"",
            "\u{85}".as_bytes(),
        ] {
            let text = KeyFormat::Escaped.show(bytes);
            assert_eq!(KeyFormat::Escaped.read(&text).as_deref(), Ok(bytes), "{text}");
            let text = KeyFormat::Hex.show(bytes);
            assert_eq!(KeyFormat::Hex.read(&text).as_deref(), Ok(bytes), "{text}");
        }
        assert_eq!(KeyFormat::Escaped.show(b"a\x00\\\xff\x1b"), r"a\x00\\\xff\x1b");
        assert_eq!(KeyFormat::Utf8.read("a\\x00").as_deref(), Ok(&b"a\\x00"[..]));
        for bad in ["\\", "\\q", "\\x", "\\x1", "\\xgg", "\\x\u{e9}"] {
            assert!(KeyFormat::Escaped.read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_in_json_say_what_they_are() {
        assert_eq!(json_bytes(b"k").to_string(), r#"{"utf8":"k"}"#);
        assert_eq!(json_bytes(b"\xff").to_string(), r#"{"hex":"ff"}"#);
    }

    #[test]
    fn tables_align_numbers_and_leave_no_blanks() {
        let columns = [
            ("KEY", Align::Left),
            ("BYTES", Align::Right),
            ("END", Align::Left),
        ];
        let row = |cells: [&str; 3]| cells.map(str::to_string).to_vec();
        let text = table(
            &columns,
            vec![row(["a", "1", ""]), row(["long key", "1024", "z"])],
        );
        assert_eq!(text, "KEY       BYTES  END\na             1\nlong key   1024  z");
    }

    #[test]
    fn failures_have_two_faces() {
        let failure = Failure::new(Code::CannotConnect, "no answer").hint("start a node");
        assert_eq!(
            render_failure(&failure, Format::Table),
            "error: no answer\n  hint: start a node"
        );
        let json: Value = serde_json::from_str(&render_failure(&failure, Format::Json)).expect("JSON");
        assert_eq!(
            json,
            json!({"error": {
                "code": "cannot_connect", "message": "no answer", "hint": "start a node", "retryable": true
            }})
        );
    }
}
