//! Every tidy rule, shown to fire on a text that breaks it and to stay quiet on one that does not.

use super::{manifests, scan, sources};

const LINTS: &str = "[lints]\nworkspace = true\n";

fn complaints(text: &str) -> String {
    sources::check("x.rs", text).join("\n")
}

#[test]
fn a_forbidden_arrow_or_crate_is_refused() {
    let good = format!("[dependencies]\nbytes = '1'\n[dev-dependencies]\ntokio = '1'\n{LINTS}");
    assert_eq!(
        manifests::check_manifest("raft-core", &good),
        Vec::<String>::new()
    );
    let arrow = format!("[dependencies]\nstore-redb = '1'\n{LINTS}");
    assert_eq!(
        manifests::check_manifest("multiraft", &arrow),
        ["multiraft must not import our crate store-redb"]
    );
    let foreign = format!("[dependencies]\ntokio = '1'\n{LINTS}");
    assert_eq!(
        manifests::check_manifest("store-redb", &foreign),
        ["store-redb must not use tokio"]
    );
    assert_eq!(
        manifests::check_manifest("node", "").len(),
        1,
        "lints must be inherited"
    );
}

#[test]
fn a_file_without_docs_is_refused() {
    assert!(complaints("use x;\n").contains("//! docs"));
    assert_eq!(complaints("//! What.\nuse x;\n"), "");
}

#[test]
fn a_banned_word_is_refused_in_identifiers_only() {
    assert!(complaints("//! d\nstruct LogManager;\n").contains("x.rs:2: `manager`"));
    assert!(complaints("//! d\nlet node_epoch = 1;\n").contains("`epoch`"));
    assert_eq!(
        complaints("//! the manager's epoch\nlet x = \"helper\"; // context\n"),
        ""
    );
    assert_eq!(complaints("//! d\nlet t = SystemTime::UNIX_EPOCH;\n"), "");
}

#[test]
fn a_long_function_is_refused() {
    let body = |lines: usize| format!("//! d\nfn f() {{\n{}}}\n", "    g();\n".repeat(lines));
    assert!(complaints(&body(71)).contains("fn f has 71 lines"));
    assert_eq!(complaints(&body(70)), "");
}

#[test]
fn stubs_ignored_tests_and_bare_sleeps_are_refused() {
    assert!(complaints("//! d\nfn f() { todo!() }\n").contains("a stub"));
    assert!(complaints("//! d\n#[ignore]\n").contains("ignored test"));
    assert!(complaints("//! d\nthread::sleep(d);\n").contains("a sleep needs"));
    assert_eq!(
        complaints("//! d\nthread::sleep(d); // pace: the load generator's rate\n"),
        ""
    );
}

#[test]
fn places_are_refused() {
    let path = format!("see {}", concat!("/wo", "rk/main"));
    assert_eq!(sources::check_words_of_places("a.md", &path).len(), 1);
}

#[test]
fn the_scanner_tells_code_from_comments_and_literals() {
    let text = "let a = 'x'; let b: &'static str = \"//{\"; // fn no() {\nlet c = r#\"fn \"no\"\"#; /* { */ let d = '\\'';";
    let code = scan::code_only(text);
    assert!(
        !code.contains('{') && !code.contains("fn") && !code.contains("no"),
        "{code}"
    );
    assert!(
        code.contains("&'static str") && code.contains("let d ="),
        "{code}"
    );
    let found = scan::functions("fn a() -> [u8; 2] {\n x\n}\ntrait T { fn b(); }\nimpl X { fn c() { y }\n }");
    let names: Vec<(&str, usize)> = found.iter().map(|f| (f.name.as_str(), f.lines)).collect();
    assert_eq!(names, [("a", 1), ("c", 1)]);
}
