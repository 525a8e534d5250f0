//! `flotilla debug`: looks into files of nodes that are stopped. Never writes to them; a node's own start does that.

use super::output::{self, Align, Column, Format, KeyFormat, json_bytes, json_list};
use crate::exit::{Code, Failure};
use clap::{Args, Subcommand, ValueEnum};
use multiraft::GroupId;
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use store_redb::{Cell, Cells, Offline, OpenError, Section};

/// The node file's name in a data directory.
pub(crate) const NODE_FILE: &str = "node.redb";

#[derive(Debug, Subcommand)]
pub(super) enum DebugCommand {
    /// Look into the node file of a stopped node.
    #[command(subcommand)]
    Store(StoreCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Read everything and verify every checksum; exit code 71 if anything is damaged.
    Check(FileArguments),
    /// Show how large the parts are.
    Stats(FileArguments),
    /// Show what is stored, a line each.
    Dump {
        #[command(flatten)]
        file: FileArguments,
        /// What to show.
        #[arg(long, value_enum)]
        table: TableName,
        /// Only this group.
        #[arg(long, value_name = "ID")]
        group: Option<u64>,
        /// At most so many lines.
        #[arg(long, default_value_t = 1000, value_name = "N")]
        limit: usize,
        /// How keys are written.
        #[arg(long, value_enum, default_value_t)]
        key_format: KeyFormat,
    },
}

#[derive(Debug, Args)]
pub(super) struct FileArguments {
    /// A node file, or the data directory that holds it.
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

/// A part of a node file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TableName {
    /// Records of the log that a start replays.
    Log,
    /// Groups, as a start restores them.
    Groups,
    /// Log entries kept for peers that lag.
    Cold,
    /// Replicas that may not come back.
    Tombstones,
    /// Stored keys.
    Data,
}

impl TableName {
    fn section(self) -> Section {
        match self {
            TableName::Log => Section::Log,
            TableName::Groups => Section::Groups,
            TableName::Cold => Section::Cold,
            TableName::Tombstones => Section::Tombstones,
            TableName::Data => Section::Data,
        }
    }
}

pub(super) fn run(command: &DebugCommand, output: Format) -> Result<(), Failure> {
    let DebugCommand::Store(command) = command;
    match command {
        StoreCommand::Check(file) => check(&file.path, output),
        StoreCommand::Stats(file) => {
            let found = open(&file.path)?.stats().map_err(failure)?;
            output::print(&render_facts("StoreStats", &found, output));
            Ok(())
        }
        StoreCommand::Dump {
            file,
            table,
            group,
            limit,
            key_format,
        } => {
            let mut rows = Vec::new();
            let mut take = |cells: Cells| {
                rows.push(cells);
                match rows.len() < *limit {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            };
            let offline = open(&file.path)?;
            offline
                .dump(table.section(), group.map(GroupId), &mut take)
                .map_err(failure)?;
            output::print(&render_rows(&rows, *key_format, output));
            Ok(())
        }
    }
}

/// What was found is printed even if something is wrong; the failure follows on stderr.
fn check(path: &Path, output: Format) -> Result<(), Failure> {
    let (found, problems) = open(path)?.check().map_err(failure)?;
    output::print(&render_facts("StoreCheck", &found, output));
    match problems.as_slice() {
        [] => Ok(()),
        problems => Err(Failure::new(Code::Corruption, problems.join("; ")).hint(DAMAGED)),
    }
}

const DAMAGED: &str = "do not start this node: move its data directory away and let the cluster replace it";

fn open(path: &Path) -> Result<Offline, Failure> {
    let file = match path.is_dir() {
        true => path.join(NODE_FILE),
        false => path.to_path_buf(),
    };
    if !file.exists() {
        let message = format!("there is no node file {}", file.display());
        return Err(
            Failure::new(Code::NotFound, message).hint("name a node file, or a node's data directory")
        );
    }
    Offline::open(&file).map_err(failure)
}

fn failure(error: OpenError) -> Failure {
    match &error {
        OpenError::Locked(path) => {
            let message = format!("a running node holds {}", path.display());
            Failure::new(Code::Conflict, message).hint("stop the node first, or look at a copy of the file")
        }
        OpenError::Corrupt(what) => Failure::new(Code::Corruption, what.clone()).hint(DAMAGED),
        OpenError::NewerFormat { .. } => Failure::new(Code::NewerFormat, error.to_string()),
        _ => Failure::new(Code::Failed, error.to_string()),
    }
}

fn render_facts(kind: &str, found: &Cells, format: Format) -> String {
    match format {
        Format::Json => json_list(kind, vec![json(found)]),
        Format::Table => {
            let rows = found
                .iter()
                .map(|(name, cell)| vec![(*name).to_string(), text(cell, KeyFormat::Escaped)]);
            output::table(&[("WHAT", Align::Left), ("VALUE", Align::Right)], rows.collect())
        }
    }
}

fn render_rows(rows: &[Cells], keys: KeyFormat, format: Format) -> String {
    if format == Format::Json {
        return json_list("StoreDump", rows.iter().map(json).collect());
    }
    let Some(first) = rows.first() else {
        return "nothing is stored there".to_string();
    };
    let columns: Vec<Column> = first
        .iter()
        .map(|(name, cell)| (*name, alignment(cell)))
        .collect();
    let cells = |row: &Cells| row.iter().map(|(_, cell)| text(cell, keys)).collect();
    output::table(&columns, rows.iter().map(cells).collect())
}

fn alignment(cell: &Cell) -> Align {
    match cell {
        Cell::Number(_) => Align::Right,
        Cell::Text(_) | Cell::Bytes(_) => Align::Left,
    }
}

fn text(cell: &Cell, keys: KeyFormat) -> String {
    match cell {
        Cell::Number(number) => number.to_string(),
        Cell::Text(text) => text.clone(),
        Cell::Bytes(bytes) => keys.show(bytes),
    }
}

fn json(cells: &Cells) -> Value {
    let value = |cell: &Cell| match cell {
        Cell::Number(number) => Value::from(*number),
        Cell::Text(text) => Value::from(text.as_str()),
        Cell::Bytes(bytes) => json_bytes(bytes),
    };
    let fields = cells
        .iter()
        .map(|(name, cell)| ((*name).to_string(), value(cell)));
    Value::Object(fields.collect::<Map<String, Value>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::golden;

    fn rows() -> Vec<Cells> {
        let row = |group: u64, key: &[u8], bytes: u64| {
            vec![
                ("group", Cell::Number(group)),
                ("slot", Cell::Text("1.0".to_string())),
                ("key", Cell::Bytes(key.to_vec())),
                ("bytes", Cell::Number(bytes)),
            ]
        };
        vec![row(7, b"plain", 100), row(70, b"\x00\xff", 4096)]
    }

    #[test]
    fn rows_look_like_this() {
        golden(
            "debug-dump.txt",
            &render_rows(&rows(), KeyFormat::Escaped, Format::Table),
        );
        golden(
            "debug-dump.json",
            &render_rows(&rows(), KeyFormat::Escaped, Format::Json),
        );
        assert_eq!(
            render_rows(&[], KeyFormat::Escaped, Format::Table),
            "nothing is stored there"
        );
    }

    #[test]
    fn facts_look_like_this() {
        let found = vec![
            ("node", Cell::Number(3)),
            ("stopped", Cell::Text("cleanly".to_string())),
            ("data_rows", Cell::Number(123_456)),
        ];
        golden(
            "debug-stats.txt",
            &render_facts("StoreStats", &found, Format::Table),
        );
        golden(
            "debug-stats.json",
            &render_facts("StoreStats", &found, Format::Json),
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_not_found() {
        let failure = open("/nonexistent/node.redb".as_ref()).expect_err("there is none");
        assert_eq!(failure.code, Code::NotFound);
    }

    #[test]
    fn a_file_in_use_is_refused_and_a_free_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(NODE_FILE);
        let identity = store_redb::Identity {
            cluster: store_redb::ClusterId([1; 16]),
            node: multiraft::NodeId(3),
        };
        let options = store_redb::Options::new(1).with_ring(1 << 20);
        let opened = store_redb::Store::open(&path, identity, options).expect("a new file");
        let failure = open(directory.path()).expect_err("it is in use");
        assert_eq!(failure.code, Code::Conflict);
        drop(opened);
        let (found, problems) = open(directory.path()).expect("free").check().expect("sound");
        assert_eq!(problems, Vec::<String>::new());
        assert!(
            found.contains(&("stopped", Cell::Text("by a crash".to_string()))),
            "{found:?}"
        );
    }
}
