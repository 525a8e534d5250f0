//! `flotilla kv`: get, put, del, scan, cas.

use super::connect::{ConnectArguments, failure, with_client};
use super::output::{self, Align, Format, KeyFormat, json_bytes, json_list, table};
use crate::exit::{Code, Failure};
use bytes::Bytes;
use clap::{Args, Subcommand};
use flotilla_client::{Client, Condition, Found, Swapped};
use serde_json::{Value, json};
use std::io::{IsTerminal, Read};

#[derive(Debug, Subcommand)]
pub(super) enum KvCommand {
    /// Print the value of a key; exit code 3 if there is none.
    Get {
        /// The key.
        key: String,
        #[command(flatten)]
        shared: Shared,
    },
    /// Write a key.
    Put {
        /// The key.
        key: String,
        /// Its new value; `-` reads all of stdin.
        value: String,
        #[command(flatten)]
        shared: Shared,
    },
    /// Remove keys, each by itself.
    Del {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<String>,
        #[command(flatten)]
        shared: Shared,
    },
    /// List keys and values in key order.
    Scan {
        #[command(flatten)]
        span: Span,
        /// Most keys to list.
        #[arg(long, default_value_t = 1000, value_name = "N")]
        limit: usize,
        /// Leave the values out.
        #[arg(long)]
        keys_only: bool,
        #[command(flatten)]
        shared: Shared,
    },
    /// Write or delete a key if it is as expected; exit code 4 if it is not.
    Cas {
        /// The key.
        key: String,
        /// Its new value; `-` reads all of stdin.
        #[arg(required_unless_present = "delete", conflicts_with = "delete")]
        value: Option<String>,
        /// Delete the key instead.
        #[arg(long)]
        delete: bool,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        shared: Shared,
    },
}

/// Flags of every `kv` command.
#[derive(Debug, Args)]
pub(super) struct Shared {
    /// How keys and values are written in arguments and tables.
    #[arg(long, value_enum, default_value_t)]
    key_format: KeyFormat,
    #[command(flatten)]
    connection: ConnectArguments,
}

/// The keys of a scan.
#[derive(Debug, Args)]
pub(super) struct Span {
    /// First key [default: the first there is].
    start: Option<String>,
    /// First key after the last [default: to the end].
    end: Option<String>,
    /// Only keys that begin with this.
    #[arg(long, conflicts_with_all = ["start", "end"])]
    prefix: Option<String>,
}

/// What `cas` demands.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Expected {
    /// The key does not exist.
    #[arg(long)]
    absent: bool,
    /// The key exists.
    #[arg(long)]
    present: bool,
    /// The key has this version (`kv get -o json` shows it).
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// The key has this value.
    #[arg(long = "value-is", value_name = "VALUE")]
    value_is: Option<String>,
}

pub(super) fn run(command: &KvCommand, output: Format) -> Result<(), Failure> {
    match command {
        KvCommand::Get { key, shared } => get(&shared.key(key)?, shared, output),
        KvCommand::Put { key, value, shared } => {
            put(&shared.key(key)?, &shared.value(value)?, shared, output)
        }
        KvCommand::Del { keys, shared } => {
            let keys = keys
                .iter()
                .map(|key| shared.key(key))
                .collect::<Result<Vec<_>, _>>()?;
            del(&keys, shared, output)
        }
        KvCommand::Scan {
            span,
            limit,
            keys_only,
            shared,
        } => {
            let what = What {
                bounds: span.bounds(shared)?,
                limit: *limit,
                values: !keys_only,
            };
            let rows = with_client(&shared.connection, async |client| scan(&client, &what).await)?;
            output::print(&render_rows(&rows, what.values, shared.key_format, output));
            Ok(())
        }
        KvCommand::Cas {
            key,
            value,
            expected,
            shared,
            ..
        } => {
            let value = value.as_ref().map(|value| shared.value(value)).transpose()?;
            cas(&shared.key(key)?, value.as_deref(), expected, shared, output)
        }
    }
}

impl Shared {
    fn key(&self, text: &str) -> Result<Vec<u8>, Failure> {
        let hint = "--key-format utf8 takes the text as it is";
        self.key_format
            .read(text)
            .map_err(|problem| Failure::new(Code::Usage, problem).hint(hint))
    }

    fn value(&self, text: &str) -> Result<Vec<u8>, Failure> {
        if text != "-" {
            return self.key(text);
        }
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(|error| Failure::new(Code::Failed, format!("stdin: {error}")))?;
        Ok(bytes)
    }
}

impl Span {
    fn bounds(&self, shared: &Shared) -> Result<(Vec<u8>, Option<Vec<u8>>), Failure> {
        if let Some(prefix) = &self.prefix {
            let prefix = shared.key(prefix)?;
            let end = after_prefix(&prefix);
            return Ok((prefix, end));
        }
        let start = self.start.as_ref().map(|key| shared.key(key)).transpose()?;
        let end = self.end.as_ref().map(|key| shared.key(key)).transpose()?;
        Ok((start.unwrap_or_default(), end))
    }
}

/// The first key after all that begin with `prefix`; None: there is none.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

fn get(key: &[u8], shared: &Shared, output: Format) -> Result<(), Failure> {
    let found = with_client(&shared.connection, async |client| {
        client.get(key).await.map_err(failure)
    })?;
    let Some(found) = found else {
        return Err(Failure::new(
            Code::NotFound,
            format!("no such key: {}", shared.key_format.show(key)),
        ));
    };
    match output {
        Format::Json => output::print(&render_found(key, &found)),
        // Arbitrary bytes could reprogram a terminal; anything else gets them as they are.
        Format::Table if std::io::stdout().is_terminal() => {
            output::print(&shared.key_format.show(&found.value))
        }
        Format::Table if shared.key_format == KeyFormat::Hex => {
            output::print(&KeyFormat::Hex.show(&found.value))
        }
        Format::Table => output::print_bytes(&found.value),
    }
    Ok(())
}

fn render_found(key: &[u8], found: &Found) -> String {
    let (key, value) = (json_bytes(key), json_bytes(&found.value));
    json_list(
        "KeyValueList",
        vec![json!({ "key": key, "value": value, "version": found.version })],
    )
}

fn put(key: &[u8], value: &[u8], shared: &Shared, output: Format) -> Result<(), Failure> {
    with_client(&shared.connection, async |client| {
        client.put(key, value).await.map_err(failure)
    })?;
    output::print(&render_changes("written", &[(key.to_vec(), true)], output));
    Ok(())
}

fn del(keys: &[Vec<u8>], shared: &Shared, output: Format) -> Result<(), Failure> {
    let deleted = with_client(&shared.connection, async |client| {
        let mut deleted = Vec::new();
        for key in keys {
            deleted.push((key.clone(), client.delete(key).await.map_err(failure)?));
        }
        Ok(deleted)
    })?;
    output::print(&render_changes("deleted", &deleted, output));
    Ok(())
}

/// Which keys were changed.
fn render_changes(verb: &str, changes: &[(Vec<u8>, bool)], output: Format) -> String {
    match output {
        Format::Table => {
            let count = changes.iter().filter(|(_, changed)| *changed).count();
            format!("{verb} {count} of {}", changes.len())
        }
        Format::Json => {
            let item = |(key, changed): &(Vec<u8>, bool)| json!({ "key": json_bytes(key), verb: changed });
            json_list("ChangeList", changes.iter().map(item).collect())
        }
    }
}

/// What a scan lists.
struct What {
    bounds: (Vec<u8>, Option<Vec<u8>>),
    limit: usize,
    values: bool,
}

type Rows = Vec<(Bytes, Option<Bytes>)>;

async fn scan(client: &Client, what: &What) -> Result<Rows, Failure> {
    const PAGE: usize = 1000;
    let (start, end) = &what.bounds;
    let mut rows: Rows = Vec::new();
    let mut next = Some(Bytes::copy_from_slice(start));
    while let Some(from) = next.take()
        && rows.len() < what.limit
    {
        let limit = (what.limit - rows.len()).min(PAGE) as u32;
        let page = client
            .scan(&from, end.as_deref(), limit, what.values)
            .await
            .map_err(failure)?;
        rows.extend(page.rows);
        next = page.next;
    }
    Ok(rows)
}

fn render_rows(rows: &Rows, values: bool, key_format: KeyFormat, output: Format) -> String {
    let show = |bytes: &Option<Bytes>| {
        bytes
            .as_ref()
            .map_or(String::new(), |bytes| key_format.show(bytes))
    };
    match output {
        Format::Table if values => {
            let cells = |(key, value): &(Bytes, Option<Bytes>)| vec![key_format.show(key), show(value)];
            table(
                &[("KEY", Align::Left), ("VALUE", Align::Left)],
                rows.iter().map(cells).collect(),
            )
        }
        Format::Table => {
            let cells = |(key, _): &(Bytes, Option<Bytes>)| vec![key_format.show(key)];
            table(&[("KEY", Align::Left)], rows.iter().map(cells).collect())
        }
        Format::Json => json_list("KeyValueList", rows.iter().map(row_json).collect()),
    }
}

fn row_json((key, value): &(Bytes, Option<Bytes>)) -> Value {
    match value {
        Some(value) => json!({ "key": json_bytes(key), "value": json_bytes(value) }),
        None => json!({ "key": json_bytes(key) }),
    }
}

fn cas(
    key: &[u8],
    value: Option<&[u8]>,
    expected: &Expected,
    shared: &Shared,
    output: Format,
) -> Result<(), Failure> {
    let value_is = expected
        .value_is
        .as_ref()
        .map(|value| shared.key(value))
        .transpose()?;
    let condition = match (expected.version, &value_is) {
        (Some(version), _) => Condition::Version(version),
        (None, Some(value)) => Condition::Value(value),
        (None, None) if expected.absent => Condition::Absent,
        (None, None) => Condition::Present,
    };
    let swapped = with_client(&shared.connection, async |client| {
        client.cas(key, condition, value).await.map_err(failure)
    })?;
    match swapped {
        Swapped::Yes(version) => {
            output::print(&render_swapped(key, version, output));
            Ok(())
        }
        Swapped::No(found) => Err(mismatch(found)),
    }
}

fn render_swapped(key: &[u8], version: u64, output: Format) -> String {
    match output {
        Format::Table => format!("written, version {version}"),
        Format::Json => json_list(
            "ChangeList",
            vec![json!({ "key": json_bytes(key), "written": true, "version": version })],
        ),
    }
}

fn mismatch(found: Option<u64>) -> Failure {
    let message = match found {
        Some(version) => format!("the key is not as expected: it has version {version}"),
        None => "the key is not as expected: it does not exist".to_string(),
    };
    Failure::new(Code::Conflict, message).hint("nothing was changed; read it and decide again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::golden;

    #[test]
    fn results_look_like_this() {
        let rows: Rows = vec![
            (Bytes::from("a"), Some(Bytes::from("1"))),
            (Bytes::from(&b"longer\x00"[..]), Some(Bytes::from("two\nlines"))),
        ];
        let keys: Rows = vec![(Bytes::from(&b"\xff"[..]), None)];
        let found = Found {
            value: Bytes::from("v"),
            version: 7,
        };
        let changes = [(b"a".to_vec(), true), (b"b".to_vec(), false)];
        let mut texts = vec![render_found(b"k", &found)];
        for output in [Format::Table, Format::Json] {
            texts.push(render_rows(&rows, true, KeyFormat::Escaped, output));
            texts.push(render_rows(&keys, false, KeyFormat::Hex, output));
            texts.push(render_changes("deleted", &changes, output));
            texts.push(render_swapped(b"k", 8, output));
        }
        golden("kv.txt", &texts.join("\n\n"));
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }

    #[test]
    fn a_mismatch_is_a_conflict() {
        assert_eq!(mismatch(Some(3)).code, Code::Conflict);
        assert_eq!(
            mismatch(None).message,
            "the key is not as expected: it does not exist"
        );
    }
}
