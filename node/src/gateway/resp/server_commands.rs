//! The commands about the node and its data as a whole.

use super::call::{Call, Outcome, SYNTAX};
use super::gather::{Gather, Join, count_part, flush_part};
use super::pipeline::Work;
use super::reply::Reply;
use super::table::{COMMANDS, Spec, find};
use super::{COMPATIBLE_VERSION, Node};
use crate::kv::glob;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn dbsize(call: &mut Call<'_>) -> Outcome {
    let parts = call
        .node
        .service
        .ranges()
        .iter()
        .map(|range| count_part(range.group))
        .collect();
    Ok(Some(Work::Many(parts, Gather::new(Join::Sum(0)))))
}

pub(super) fn flush(call: &mut Call<'_>) -> Outcome {
    match call.arguments.len() {
        1 => {}
        2 if call.is(1, "sync") || call.is(1, "async") => {}
        _ => return Err(SYNTAX.into()),
    }
    if !call.node.options.allow_flush {
        let name = call.spec.name.to_uppercase();
        return Err(
            format!("NOPERM {name} is switched off on this node: set resp.allow_flush to allow it").into(),
        );
    }
    let parts = call
        .node
        .service
        .ranges()
        .iter()
        .map(|range| flush_part(range.group))
        .collect();
    Ok(Some(Work::Many(parts, Gather::new(Join::Flush))))
}

pub(super) fn time(call: &mut Call<'_>) -> Outcome {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut reply = call.reply();
    reply.array(2);
    reply.bulk(now.as_secs().to_string().as_bytes());
    reply.bulk(now.subsec_micros().to_string().as_bytes());
    Ok(None)
}

pub(super) fn info(call: &mut Call<'_>) -> Outcome {
    let wanted = |section: &str| {
        call.arguments.len() == 1
            || (1..call.arguments.len()).any(|at| {
                ["all", "everything", "default", section]
                    .iter()
                    .any(|name| call.is(at, name))
            })
    };
    let sections: [(&str, Section); 4] = [
        ("server", server_section),
        ("clients", clients_section),
        ("stats", stats_section),
        ("replication", |_| "role:master\r\nconnected_slaves:0\r\n".into()),
    ];
    let texts = sections
        .iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, text)| {
            let title = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
            format!("# {title}\r\n{}", text(call.node))
        });
    let text = texts.collect::<Vec<_>>().join("\r\n");
    call.reply().verbatim(&text);
    Ok(None)
}

/// Writes one section of INFO.
type Section = fn(&Node) -> String;

fn server_section(node: &Node) -> String {
    let mut text = String::new();
    let uptime = node.started.elapsed().as_secs();
    let version = env!("CARGO_PKG_VERSION");
    let _ = write!(
        text,
        "redis_version:{COMPATIBLE_VERSION}\r\nflotilla_version:{version}\r\n"
    );
    let _ = write!(
        text,
        "redis_mode:standalone\r\nos:{}\r\narch_bits:64\r\n",
        std::env::consts::OS
    );
    let _ = write!(text, "process_id:{}\r\n", std::process::id());
    let _ = write!(
        text,
        "uptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n",
        uptime / 86_400
    );
    text
}

fn clients_section(node: &Node) -> String {
    let open = node.options.counters.connections_open.load(Ordering::Relaxed);
    format!(
        "connected_clients:{open}\r\nmaxclients:{}\r\nblocked_clients:0\r\n",
        node.options.clients_max
    )
}

fn stats_section(node: &Node) -> String {
    let counters = &node.options.counters;
    let commands: u64 = counters
        .commands
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .sum();
    let mut text = String::new();
    for (name, value) in [
        (
            "total_connections_received",
            counters.connections.load(Ordering::Relaxed),
        ),
        ("total_commands_processed", commands),
        ("total_net_input_bytes", counters.bytes_in.load(Ordering::Relaxed)),
        (
            "total_net_output_bytes",
            counters.bytes_out.load(Ordering::Relaxed),
        ),
        (
            "rejected_connections",
            counters.connections_refused.load(Ordering::Relaxed),
        ),
        ("total_error_replies", counters.errors.load(Ordering::Relaxed)),
    ] {
        let _ = write!(text, "{name}:{value}\r\n");
    }
    text
}

pub(super) fn config(call: &mut Call<'_>) -> Outcome {
    call.subcommand()?;
    let options = &call.node.options;
    let settings = [
        ("appendonly", "yes".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", options.clients_max.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("proto-max-bulk-len", options.value_bytes_max.to_string()),
        ("save", String::new()),
        (
            "timeout",
            options
                .idle_timeout
                .map_or(0, |timeout| timeout.as_secs())
                .to_string(),
        ),
    ];
    let asked = |name: &str| {
        (2..call.arguments.len())
            .any(|at| glob::matches(&call.argument(at).to_ascii_lowercase(), name.as_bytes()))
    };
    let found: Vec<_> = settings.iter().filter(|(name, _)| asked(name)).collect();
    let mut reply = call.reply();
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(None)
}

pub(super) fn command(call: &mut Call<'_>) -> Outcome {
    if call.arguments.len() == 1 {
        let all: Vec<_> = COMMANDS.iter().map(Some).collect();
        write_infos(&mut call.reply(), &all);
        return Ok(None);
    }
    let subcommand = call.subcommand()?;
    let named: Vec<Option<&'static Spec>> = call
        .arguments
        .iter()
        .skip(2)
        .map(|name| find(name).map(|at| &COMMANDS[at]))
        .collect();
    let chosen = if named.is_empty() {
        COMMANDS.iter().map(Some).collect()
    } else {
        named
    };
    let mut reply = call.reply();
    match subcommand {
        "count" => reply.integer(COMMANDS.len() as i64),
        "info" => write_infos(&mut reply, &chosen),
        "docs" => write_docs(&mut reply, &chosen),
        "list" => {
            reply.array(COMMANDS.len());
            COMMANDS.iter().for_each(|spec| reply.bulk(spec.name.as_bytes()));
        }
        other => unreachable!("{other} is in the table"),
    }
    Ok(None)
}

fn write_infos(reply: &mut Reply<'_>, specs: &[Option<&'static Spec>]) {
    reply.array(specs.len());
    for spec in specs {
        match spec {
            None => reply.null_array(),
            Some(spec) => write_info(reply, spec),
        }
    }
}

fn write_info(reply: &mut Reply<'_>, spec: &Spec) {
    let (first, last, step) = spec.keys;
    reply.array(10);
    reply.bulk(spec.name.as_bytes());
    reply.integer(spec.arity);
    reply.set(spec.flags.len());
    spec.flags.iter().for_each(|flag| reply.simple(flag));
    reply.integer(first as i64);
    reply.integer(last);
    reply.integer(step as i64);
    reply.set(0);
    reply.array(0);
    reply.array(0);
    reply.array(0);
}

fn write_docs(reply: &mut Reply<'_>, specs: &[Option<&'static Spec>]) {
    let known: Vec<_> = specs.iter().flatten().collect();
    reply.map(known.len());
    for spec in known {
        reply.bulk(spec.name.as_bytes());
        reply.map(2);
        reply.bulk(b"summary");
        reply.bulk(spec.summary.as_bytes());
        reply.bulk(b"group");
        reply.bulk(spec.group.as_bytes());
    }
}
