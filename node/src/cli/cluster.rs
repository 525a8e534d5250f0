//! `flotilla status`, `range ls`, `node ls`.

use super::connect::{ConnectArguments, failure, with_client};
use super::output::{self, Align, Format, KeyFormat, json_bytes, json_list, table};
use crate::exit::{Code, Failure};
use clap::Subcommand;
use flotilla_client::{NodeRow, RangeRow, Status};
use serde_json::json;

#[derive(Debug, Subcommand)]
pub(super) enum RangeCommand {
    /// List all ranges in key order, as one node sees them.
    Ls {
        /// How keys are written in the table.
        #[arg(long, value_enum, default_value_t)]
        key_format: KeyFormat,
        #[command(flatten)]
        connection: ConnectArguments,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List all nodes, as one of them sees them.
    Ls {
        #[command(flatten)]
        connection: ConnectArguments,
    },
}

pub(super) fn status(connection: &ConnectArguments, output: Format) -> Result<(), Failure> {
    let status = with_client(connection, async |client| client.status().await.map_err(failure))?;
    output::print(&render_status(&status, output));
    match health(&status) {
        Health::Good => Ok(()),
        Health::Bad(why) => Err(Failure::new(
            Code::NotHealthy,
            format!("the cluster is not healthy: {why}"),
        )),
    }
}

pub(super) fn ranges(command: &RangeCommand, output: Format) -> Result<(), Failure> {
    let RangeCommand::Ls {
        key_format,
        connection,
    } = command;
    let ranges = with_client(connection, async |client| client.ranges().await.map_err(failure))?;
    output::print(&render_ranges(&ranges, *key_format, output));
    Ok(())
}

pub(super) fn nodes(command: &NodeCommand, output: Format) -> Result<(), Failure> {
    let NodeCommand::Ls { connection } = command;
    let nodes = with_client(connection, async |client| client.nodes().await.map_err(failure))?;
    output::print(&render_nodes(&nodes, output));
    Ok(())
}

enum Health {
    Good,
    Bad(String),
}

fn health(status: &Status) -> Health {
    if status.ranges_led < status.ranges {
        Health::Bad(format!(
            "{} of {} ranges have no leader",
            status.ranges - status.ranges_led,
            status.ranges
        ))
    } else if status.nodes_live < status.nodes {
        Health::Bad(format!(
            "{} of {} nodes cannot be reached",
            status.nodes - status.nodes_live,
            status.nodes
        ))
    } else if !status.ready {
        Health::Bad(format!("node {} is not ready", status.node))
    } else {
        Health::Good
    }
}

fn render_status(status: &Status, output: Format) -> String {
    let (healthy, word) = match health(status) {
        Health::Good => (true, "healthy".to_string()),
        Health::Bad(why) => (false, format!("NOT HEALTHY: {why}")),
    };
    match output {
        Format::Table => [
            format!("cluster   {}", status.cluster_id),
            format!("health    {word}"),
            format!("nodes     {} of {} live", status.nodes_live, status.nodes),
            format!(
                "ranges    {} of {} have a leader",
                status.ranges_led, status.ranges
            ),
            format!(
                "asked     node {} (version {}, up {} s, leads {} ranges)",
                status.node, status.version, status.uptime_seconds, status.leads
            ),
        ]
        .join("\n"),
        Format::Json => json_list(
            "ClusterStatusList",
            vec![json!({
                "clusterId": status.cluster_id,
                "healthy": healthy,
                "ready": status.ready,
                "node": status.node,
                "version": status.version,
                "uptimeSeconds": status.uptime_seconds,
                "leads": status.leads,
                "nodes": { "total": status.nodes, "live": status.nodes_live },
                "ranges": { "total": status.ranges, "withLeader": status.ranges_led },
            })],
        ),
    }
}

fn render_ranges(ranges: &[RangeRow], key_format: KeyFormat, output: Format) -> String {
    match output {
        Format::Table => {
            let columns = [
                ("RANGE", Align::Right),
                ("START", Align::Left),
                ("END", Align::Left),
                ("LEADER", Align::Left),
                ("VOTERS", Align::Left),
                ("TERM", Align::Right),
                ("APPLIED", Align::Right),
            ];
            table(
                &columns,
                ranges
                    .iter()
                    .map(|range| range_cells(range, key_format))
                    .collect(),
            )
        }
        Format::Json => json_list("RangeList", ranges.iter().map(range_json).collect()),
    }
}

fn range_cells(range: &RangeRow, key_format: KeyFormat) -> Vec<String> {
    let start = if range.start.is_empty() {
        "-".to_string()
    } else {
        key_format.show(&range.start)
    };
    let end = range
        .end
        .as_ref()
        .map_or("-".to_string(), |end| key_format.show(end));
    let leader = range
        .leader
        .map_or("none".to_string(), |leader| format!("node {leader}"));
    let voters: Vec<String> = range.voters.iter().map(u64::to_string).collect();
    let (term, applied) = (range.term.to_string(), range.applied.to_string());
    vec![
        range.id.to_string(),
        start,
        end,
        leader,
        voters.join(","),
        term,
        applied,
    ]
}

fn range_json(range: &RangeRow) -> serde_json::Value {
    json!({
        "id": range.id,
        "start": json_bytes(&range.start),
        "end": range.end.as_ref().map(|end| json_bytes(end)),
        "leader": range.leader,
        "voters": range.voters,
        "term": range.term,
        "applied": range.applied,
        "generation": range.generation,
    })
}

fn render_nodes(nodes: &[NodeRow], output: Format) -> String {
    let state = |node: &NodeRow| if node.live { "live" } else { "unreachable" };
    match output {
        Format::Table => {
            let columns = [
                ("NODE", Align::Right),
                ("ADDRESS", Align::Left),
                ("STATE", Align::Left),
                ("REPLICAS", Align::Right),
                ("LEADS", Align::Right),
            ];
            let cells = |node: &NodeRow| {
                let (replicas, leads) = (node.replicas.to_string(), node.leads.to_string());
                vec![
                    node.id.to_string(),
                    node.address.clone(),
                    state(node).to_string(),
                    replicas,
                    leads,
                ]
            };
            table(&columns, nodes.iter().map(cells).collect())
        }
        Format::Json => {
            let item = |node: &NodeRow| {
                json!({
                    "id": node.id,
                    "address": node.address,
                    "state": state(node),
                    "replicas": node.replicas,
                    "leads": node.leads,
                })
            };
            json_list("NodeList", nodes.iter().map(item).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::golden;

    fn sample_status() -> Status {
        Status {
            cluster_id: "00ff".to_string(),
            node: 1,
            version: "0.1.0".to_string(),
            ready: true,
            nodes: 3,
            nodes_live: 3,
            ranges: 16,
            ranges_led: 16,
            leads: 5,
            uptime_seconds: 42,
        }
    }

    fn sample_ranges() -> Vec<RangeRow> {
        let first = RangeRow {
            id: 2,
            end: Some(b"80".to_vec()),
            leader: Some(1),
            voters: vec![1, 2, 3],
            term: 4,
            applied: 12_345,
            ..RangeRow::default()
        };
        let second = RangeRow {
            id: 10,
            start: b"80\xff".to_vec(),
            voters: vec![1, 2, 3],
            ..RangeRow::default()
        };
        vec![first, second]
    }

    #[test]
    fn results_look_like_this() {
        let nodes = [
            NodeRow {
                id: 1,
                address: "127.0.0.1:7400".to_string(),
                live: true,
                replicas: 17,
                leads: 6,
            },
            NodeRow {
                id: 2,
                address: "b:7400".to_string(),
                live: false,
                replicas: 17,
                leads: 0,
            },
        ];
        let degraded = Status {
            ranges_led: 15,
            ..sample_status()
        };
        let text = [Format::Table, Format::Json]
            .map(|output| {
                [
                    render_status(&sample_status(), output),
                    render_status(&degraded, output),
                    render_ranges(&sample_ranges(), KeyFormat::Escaped, output),
                    render_nodes(&nodes, output),
                ]
                .join("\n\n")
            })
            .join("\n\n");
        golden("cluster.txt", &text);
    }

    #[test]
    fn health_names_the_worst() {
        let why = |status: Status| match health(&status) {
            Health::Good => String::new(),
            Health::Bad(why) => why,
        };
        assert_eq!(why(sample_status()), "");
        assert_eq!(
            why(Status {
                ranges_led: 14,
                ..sample_status()
            }),
            "2 of 16 ranges have no leader"
        );
        assert_eq!(
            why(Status {
                nodes_live: 2,
                ..sample_status()
            }),
            "1 of 3 nodes cannot be reached"
        );
        assert_eq!(
            why(Status {
                ready: false,
                ..sample_status()
            }),
            "node 1 is not ready"
        );
    }
}
