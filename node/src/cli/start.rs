//! `flotilla start` and `flotilla dev`: from flags to options. Running is the server's.

use super::profile::{DEV_DIRECTORY, Profile};
use crate::exit::{Code, Failure};
use crate::options::{DevOptions, Layers, OptionSpec, Scope, TABLE, resolve, resolve_shared};
use crate::server;
use clap::{Arg, ArgMatches, Args, FromArgMatches};
use std::path::PathBuf;

/// Flags of `start`.
#[derive(Debug, Args)]
pub(super) struct StartArguments {
    /// TOML file of options; see docs/config.md.
    #[arg(long, env = "FLOTILLA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: TableFlags<true>,
}

/// Flags of `dev`.
#[derive(Debug, Args)]
pub(super) struct DevArguments {
    /// Holds data and certificates of all nodes; made when missing, found again at the next start.
    #[arg(long, default_value = DEV_DIRECTORY, value_name = "DIR")]
    data_dir: PathBuf,
    /// Number of nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=DevOptions::NODES_MAX as u64))]
    nodes: u64,
    /// QUIC (UDP) port of the first node; the next one has 10 more.
    #[arg(long, default_value_t = 7400, value_name = "PORT", value_parser = port())]
    quic_port: u16,
    /// HTTP port of the first node; the next one has 10 more.
    #[arg(long, default_value_t = 7401, value_name = "PORT", value_parser = port())]
    http_port: u16,
    /// Port for Redis clients of the first node; the next one has 1 more.
    #[arg(long, default_value_t = 6380, value_name = "PORT", value_parser = port())]
    resp_port: u16,
    /// TOML file of options; those that name one node are ignored. See docs/config.md.
    #[arg(long, env = "FLOTILLA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: TableFlags<false>,
}

/// A port from which those of all nodes can be counted up.
fn port() -> clap::builder::RangedI64ValueParser<u16> {
    let highest = u16::MAX - 10 * (DevOptions::NODES_MAX as u16 - 1);
    clap::value_parser!(u16).range(1..=i64::from(highest))
}

/// The options of the table as flags: all of them, or those that a `dev` cluster's nodes share.
#[derive(Debug)]
struct TableFlags<const ALL: bool> {
    given: Vec<(&'static OptionSpec, String)>,
}

impl std::fmt::Debug for OptionSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key)
    }
}

impl<const ALL: bool> TableFlags<ALL> {
    fn specs() -> impl Iterator<Item = &'static OptionSpec> {
        TABLE.iter().filter(|spec| ALL || spec.scope == Scope::Any)
    }
}

impl<const ALL: bool> Args for TableFlags<ALL> {
    fn augment_args(command: clap::Command) -> clap::Command {
        Self::specs().fold(command.next_help_heading("Options"), |command, spec| {
            command.arg(flag(spec))
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<const ALL: bool> FromArgMatches for TableFlags<ALL> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |spec: &'static OptionSpec| matches.get_one(spec.key).cloned().map(|text| (spec, text));
        Ok(TableFlags {
            given: Self::specs().filter_map(given).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Values are not parsed here: errors are the same whichever layer they come from.
fn flag(spec: &'static OptionSpec) -> Arg {
    let default = match spec.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let help = format!("{}{default} [env: {}]", spec.doc, spec.env());
    let arg = Arg::new(spec.key)
        .long(spec.flag())
        .value_name(spec.form)
        .help(help);
    if spec.is_switch() {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
    } else {
        arg
    }
}

/// Runs one node until it is told to stop.
pub(super) fn start(arguments: &StartArguments) -> Result<(), Failure> {
    let options = with_layers(&arguments.config, &arguments.flags.given, |layers| {
        Ok(resolve(layers)?)
    })?;
    server::run_node(options)
}

/// Runs several nodes until they are told to stop.
pub(super) fn dev(arguments: &DevArguments) -> Result<(), Failure> {
    let options = dev_options(arguments)?;
    leave_profile(&options)?;
    server::run_dev(options)
}

/// So that the other commands find the cluster without flags.
fn leave_profile(options: &DevOptions) -> Result<(), Failure> {
    let nodes = options.all();
    let quic = nodes.iter().map(|node| node.advertise.clone()).collect();
    let resp = nodes.iter().map(|node| node.listen.resp.to_string()).collect();
    let written = server::make_data_dir(&options.data_dir)
        .and_then(|()| Profile::of_dev(quic, resp).write(&options.data_dir));
    written.map_err(|error| {
        let message = format!("cannot write into {}: {error}", options.data_dir.display());
        Failure::new(Code::Configuration, message).hint("--data-dir names a directory this user may write to")
    })
}

fn dev_options(arguments: &DevArguments) -> Result<DevOptions, Failure> {
    let shared = with_layers(&arguments.config, &arguments.flags.given, |layers| {
        Ok(resolve_shared(layers)?)
    })?;
    let options = DevOptions {
        data_dir: arguments.data_dir.clone(),
        nodes: arguments.nodes as usize,
        quic_port: arguments.quic_port,
        http_port: arguments.http_port,
        resp_port: arguments.resp_port,
        shared,
    };
    check_ports(&options)?;
    Ok(options)
}

/// HTTP and RESP ports count up at different speeds and must not meet.
fn check_ports(options: &DevOptions) -> Result<(), Failure> {
    let nodes = options.all();
    let mut ports: Vec<u16> = nodes
        .iter()
        .flat_map(|node| [node.listen.http.port(), node.listen.resp.port()])
        .collect();
    ports.sort_unstable();
    match ports.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            let message = format!("TCP port {} would be used for HTTP and RESP", pair[0]);
            Err(Failure::new(Code::Configuration, message).hint("move --http-port and --resp-port apart"))
        }
    }
}

fn with_layers<T>(
    config: &Option<PathBuf>,
    flags: &[(&'static OptionSpec, String)],
    resolve: impl FnOnce(Layers<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let env = |name: &str| std::env::var(name).ok();
    let Some(path) = config else {
        return resolve(Layers {
            file: None,
            env: &env,
            flags,
        });
    };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Code::Configuration, format!("{name}: {error}")).hint("--config names a TOML file")
    })?;
    resolve(Layers {
        file: Some((&name, &text)),
        env: &env,
        flags,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Dev {
        #[command(flatten)]
        dev: DevArguments,
    }

    fn dev(arguments: &[&str]) -> Result<DevOptions, Failure> {
        let arguments = ["dev"].iter().chain(arguments);
        dev_options(&Dev::try_parse_from(arguments).expect("sound arguments").dev)
    }

    #[test]
    fn dev_takes_ports_and_shared_options() {
        let options = dev(&[
            "--nodes",
            "5",
            "--quic-port",
            "9400",
            "--ranges",
            "4",
            "--resp-allow-flush=false",
        ]);
        let options = options.expect("valid");
        assert_eq!(
            (
                options.nodes,
                options.node(multiraft::NodeId(2)).listen.quic.port()
            ),
            (5, 9410)
        );
        assert_eq!(
            (options.shared.ranges, options.shared.resp.allow_flush),
            (4, false)
        );
        assert!(dev(&[]).expect("valid").shared.resp.allow_flush);
    }

    #[test]
    fn dev_refuses_what_names_one_node_and_ports_that_meet() {
        assert!(Dev::try_parse_from(["dev", "--node-id", "1"]).is_err());
        assert!(Dev::try_parse_from(["dev", "--nodes", "0"]).is_err());
        assert!(Dev::try_parse_from(["dev", "--quic-port", "65500"]).is_err());
        let met = dev(&["--http-port", "6381"]).expect_err("they meet");
        assert_eq!(met.message, "TCP port 6381 would be used for HTTP and RESP");
    }
}
