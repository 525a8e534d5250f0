//! The rules about one source text: docs first, no banned word, no long function, no stub, no unexplained sleep.

use super::scan::{code_only, functions, words};

/// Longest function body, in lines that hold code.
const FUNCTION_LINES_MAX: usize = 70;

/// Words that say nothing or that this project gave another meaning (ARCHITECTURE.md, "Vocabulary").
const BANNED: &[&str] = &[
    "epoch", "region", "manager", "context", "handler", "util", "utils", "misc", "common", "helper",
    "helpers",
];

/// Names of other people's that we cannot avoid: (word, the text that must stand in the same line).
const FOREIGN: &[(&str, &str)] = &[
    ("context", "task::Context"),
    ("context", "Context<'_>"),
    ("context", "PerThreadContext"),
    ("common", "CommonName"),
    ("context", "ExpiredContext"),
    ("context", "NotValidYetContext"),
    ("epoch", "UNIX_EPOCH"),
];

/// Texts that would tie the repository to one machine or registry: split so that this file does not trip itself.
const PLACES: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/tmp/", "wt"),
    concat!("/tmp/", "team"),
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("npmjs", ".org"),
    concat!("deb.debian", ".org"),
];

/// All complaints about one source file.
pub(super) fn check(name: &str, text: &str) -> Vec<String> {
    let code = code_only(text);
    let mut complaints = Vec::new();
    if !text.starts_with("//!") && !text.starts_with("#!/") {
        complaints.push(format!("{name}: must open with //! docs"));
    }
    for function in functions(&code)
        .iter()
        .filter(|function| function.lines > FUNCTION_LINES_MAX)
    {
        complaints.push(format!(
            "{name}: fn {} has {} lines of code",
            function.name, function.lines
        ));
    }
    complaints.extend(check_words(name, text, &code));
    complaints.extend(check_stubs(name, text, &code));
    complaints
}

fn check_words(name: &str, text: &str, code: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let foreign = |word: &str, line: &str| FOREIGN.iter().any(|(w, sign)| *w == word && line.contains(sign));
    words(code)
        .into_iter()
        .filter(|(number, word)| BANNED.contains(&word.as_str()) && !foreign(word, lines[number - 1]))
        .map(|(number, word)| format!("{name}:{number}: `{word}` is a banned word"))
        .collect()
}

fn check_stubs(name: &str, text: &str, code: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut before = "";
    for (number, (code, full)) in code.lines().zip(text.lines()).enumerate() {
        let here = format!("{name}:{}", number + 1);
        if code.contains("#[ignore") {
            complaints.push(format!(
                "{here}: an ignored test looks green; delete it or run it"
            ));
        }
        let paced = full.contains("// pace:") || before.trim_start().starts_with("// pace:");
        if (code.contains("::sleep(") || code.contains(" sleep(")) && !code.contains("fn ") && !paced {
            complaints.push(format!(
                "{here}: a sleep needs `// pace: why` beside or above it (never to hide a race)"
            ));
        }
        let stubs = [concat!("to", "do!("), concat!("unimpl", "emented!(")];
        if stubs.iter().any(|stub| code.contains(stub)) || full.contains(concat!("FIX", "ME")) {
            complaints.push(format!("{here}: a stub"));
        }
        before = full;
    }
    complaints
}

/// No path of one machine, no registry host.
pub(super) fn check_words_of_places(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        complaints.extend(
            PLACES
                .iter()
                .filter(|place| line.contains(**place))
                .map(|place| format!("{name}:{}: names {place}", number + 1)),
        );
    }
    complaints
}
