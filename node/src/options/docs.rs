//! docs/config.md, written from the table. Pure.

use super::{OptionSpec, TABLE};
use std::fmt::Write as _;

const HEAD: &str = "\
# Configuration

<!-- Generated from node/src/options/table.rs by `UPDATE_GOLDENFILES=1 cargo test -p flotilla options`. -->

`flotilla start` takes every option below as a flag, as an environment variable and as a key of the TOML file named by
`--config FILE` (or `FLOTILLA_CONFIG`). A flag wins over the environment, the environment over the file, the file over the
default. A key the table does not know is refused. `flotilla dev` takes the options marked `dev` as well, and sets the
others itself.

Sizes: `4096`, `64KiB`, `64MiB`, `1GiB` (and `KB`, `MB`, `GB` for powers of ten). Durations: `250ms`, `10s`, `5m`, `1h`.
A key in TOML may be written `listen.quic = \"...\"` or under `[listen]`. Lists are text with commas or TOML arrays.
";

/// The whole file.
pub fn markdown() -> String {
    TABLE.iter().fold(HEAD.to_string(), |mut text, spec| {
        section(&mut text, spec).expect("writing to a String cannot fail");
        text
    })
}

fn section(text: &mut String, spec: &OptionSpec) -> std::fmt::Result {
    let dev = if spec.scope == super::Scope::Any {
        " (also `dev`)"
    } else {
        ""
    };
    writeln!(text, "\n## `{}`{dev}\n", spec.key)?;
    writeln!(text, "{}\n", spec.doc)?;
    writeln!(text, "* flag: `--{} {}`", spec.flag(), spec.form)?;
    writeln!(text, "* environment: `{}`", spec.env())?;
    match spec.default {
        "" => writeln!(text, "* default: none"),
        default => writeln!(text, "* default: `{default}`"),
    }
}
