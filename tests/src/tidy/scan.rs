//! A small scanner of Rust text: blanks comments and literals, finds functions and identifiers.
//! Not a parser: precise enough for rules of style, and proved on samples.

/// A function found in a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// Lines of its body that hold code.
    pub(super) lines: usize,
}

/// The text with comments, strings and characters replaced by blanks; line breaks stay.
pub(super) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(
                bytes[at..end]
                    .iter()
                    .map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
            );
            at = end;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
    } else if rest.starts_with(b"/*") {
        at + find(rest, b"*/").map_or(rest.len(), |found| found + 2)
    } else if rest[0] == b'"' {
        at + quoted_len(rest)
    } else if !in_word && (rest.starts_with(b"r\"") || rest.starts_with(b"r#") || rest.starts_with(b"br")) {
        at + raw_len(rest)
    } else if rest[0] == b'\'' {
        at + character_len(rest)
    } else {
        at
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Length of a string literal that starts with its quote.
fn quoted_len(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Length of a raw string literal, 0 if none starts here.
fn raw_len(rest: &[u8]) -> usize {
    let start = rest.iter().position(|byte| *byte == b'r').unwrap_or(0) + 1;
    let hashes = rest[start..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(start + hashes) != Some(&b'"') {
        return 0;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let body = start + hashes + 1;
    find(&rest[body..], &close).map_or(rest.len(), |found| body + found + close.len())
}

/// Length of a character literal, 0 for a lifetime.
fn character_len(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return rest[2..]
            .iter()
            .skip(1)
            .position(|byte| *byte == b'\'')
            .map_or(0, |found| found + 4);
    }
    match rest.iter().skip(1).take(5).position(|byte| *byte == b'\'') {
        Some(found)
            if found >= 1 && std::str::from_utf8(&rest[1..=found]).is_ok_and(|c| c.chars().count() == 1) =>
        {
            found + 2
        }
        _ => 0,
    }
}

/// Every function with a body, in order. `code` has no comments or literals left.
pub(super) fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find("fn ") {
        let boundary = rest[..start]
            .chars()
            .next_back()
            .is_none_or(|c| !c.is_alphanumeric() && c != '_');
        rest = &rest[start + 3..];
        if boundary {
            found.extend(function_at(rest));
        }
    }
    found
}

/// The function whose name begins `text`, if it has a body.
fn function_at(text: &str) -> Option<Function> {
    let name: String = text
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    let open = text.find(['{', ';'])?;
    if name.is_empty() || text.as_bytes()[open] == b';' && !text[..open].contains('[') {
        return None;
    }
    let open = text[open..].find('{')? + open;
    let mut depth = 0_usize;
    let close = text[open..].char_indices().find_map(|(at, c)| {
        depth = match c {
            '{' => depth + 1,
            '}' => depth - 1,
            _ => depth,
        };
        (depth == 0).then_some(open + at)
    })?;
    let lines = text[open..close]
        .lines()
        .skip(1)
        .filter(|line| !line.trim().is_empty())
        .count();
    Some(Function {
        name,
        lines: lines.max(1),
    })
}

/// The lower-case words that make up the identifiers of `code`, each with its line number from 1.
pub(super) fn words(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for identifier in line.split(|c: char| !c.is_alphanumeric() && c != '_') {
            found.extend(split_words(identifier).into_iter().map(|word| (number + 1, word)));
        }
    }
    found
}

/// `RangeDescriptor` and `range_descriptor` are both range, descriptor.
fn split_words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_lower = false;
    for c in identifier.chars() {
        if c == '_' || (c.is_uppercase() && after_lower) {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().expect("never empty").extend(c.to_lowercase());
        }
        after_lower = c.is_lowercase() || c.is_numeric();
    }
    words.retain(|word| !word.is_empty());
    words
}
