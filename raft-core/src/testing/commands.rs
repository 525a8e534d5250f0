//! The verbs of the script language. The language is described in testscripts/README.md.

use super::cluster::{Cluster, Link, Parcel};
use super::host::Disk;
use crate::{
    Entry, EntryId, Index, MemberChange, Membership, NodeId, Options, Payload, ReadId, ReadPolicy, ReplicaId,
    Stamp,
};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Duration;

/// One line of a script, split into words: `verb word word key=value`.
struct Line<'a> {
    words: Vec<&'a str>,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Line<'a> {
        let line = line.split('#').next().unwrap_or_default();
        let (pairs, words): (Vec<&str>, Vec<&str>) =
            line.split_whitespace().partition(|word| word.contains('='));
        Line {
            words,
            pairs: pairs.iter().filter_map(|pair| pair.split_once('=')).collect(),
        }
    }

    fn word(&self, position: usize) -> Result<&'a str, String> {
        let word = self.words.get(position).copied();
        word.ok_or_else(|| format!("`{}` needs more words", self.words.join(" ")))
    }

    fn number(&self, position: usize) -> Result<u64, String> {
        number(self.word(position)?)
    }

    fn duration(&self, position: usize) -> Result<Duration, String> {
        number(self.word(position)?.trim_end_matches("ms")).map(Duration::from_millis)
    }

    /// The replicas named from word `first` on; all of them when there is none.
    fn chosen(&self, cluster: &Cluster, first: usize) -> Result<BTreeSet<ReplicaId>, String> {
        let named = self.replicas(first)?;
        let everyone = cluster.hosts.keys().copied();
        Ok(if named.is_empty() {
            everyone.collect()
        } else {
            named.into_iter().collect()
        })
    }

    fn replica(&self, position: usize) -> Result<ReplicaId, String> {
        self.number(position).map(ReplicaId)
    }

    fn replicas(&self, first: usize) -> Result<Vec<ReplicaId>, String> {
        let words = self.words.get(first..).unwrap_or_default();
        words.iter().map(|word| number(word).map(ReplicaId)).collect()
    }

    fn pair(&self, key: &str) -> Option<&'a str> {
        self.pairs
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| *value)
    }

    fn value(&self, key: &str, default: u64) -> Result<u64, String> {
        self.pair(key).map_or(Ok(default), number)
    }

    fn size(&self, key: &str, default: usize) -> Result<usize, String> {
        self.value(key, default as u64).map(|value| value as usize)
    }

    fn set(&self, key: &str) -> Result<BTreeSet<ReplicaId>, String> {
        let ids = self
            .pair(key)
            .unwrap_or_default()
            .split(',')
            .filter(|id| !id.is_empty());
        ids.map(|id| number(id).map(ReplicaId)).collect()
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}

/// Runs the commands of one block and returns what happened.
pub(super) fn run_block(cluster: &mut Option<Cluster>, commands: &[String]) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for command in commands {
        let line = Line::parse(command);
        if line.words.is_empty() {
            continue;
        }
        if line.words.first() == Some(&"cluster") {
            *cluster = Some(found(&line)?);
        } else {
            let cluster = cluster.as_mut().ok_or("the first command is `cluster`")?;
            run_told_or_not(cluster, line)?;
        }
        let cluster = cluster.as_mut().expect("just founded");
        lines.extend(cluster.take_transcript());
    }
    Ok(lines)
}

fn found(line: &Line<'_>) -> Result<Cluster, String> {
    let defaults = Options::default();
    let options = Options {
        append_bytes_max: line.size("append_bytes", defaults.append_bytes_max)?,
        inflight_bytes_max: line.size("inflight_bytes", defaults.inflight_bytes_max)?,
        inflight_messages_max: line.size("inflight_messages", defaults.inflight_messages_max)?,
        uncommitted_bytes_max: line.size("uncommitted_bytes", defaults.uncommitted_bytes_max)?,
        tail_bytes_max: line.size("tail_bytes", defaults.tail_bytes_max)?,
        kept_bytes_max: line.value("kept_bytes", defaults.kept_bytes_max)?,
        leases: line.pair("leases") == Some("on"),
        ..defaults
    };
    let membership = Cluster::membership(line.value("voters", 3)?, line.value("learners", 0)?);
    let mut cluster = Cluster::new(membership, options, line.value("seed", 0)?);
    cluster.apply_at_once = line.pair("apply") != Some("manual");
    for pair in line.pair("rates").unwrap_or_default().split(',') {
        if let Some((id, rate)) = pair.split_once(':') {
            cluster.rates.insert(ReplicaId(number(id)?), number(rate)?);
        }
    }
    cluster.record();
    if let Some(leader) = line.pair("leader") {
        settle_with_leader(&mut cluster, ReplicaId(number(leader)?));
    }
    Ok(cluster)
}

/// Elects `leader` and lets everything settle, without a word in the transcript.
fn settle_with_leader(cluster: &mut Cluster, leader: ReplicaId) {
    cluster.campaign(leader);
    let everyone: BTreeSet<ReplicaId> = cluster.hosts.keys().copied().collect();
    stabilize(cluster, &everyone);
    cluster.tick(leader);
    stabilize(cluster, &everyone);
    cluster.take_transcript();
}

/// `quietly` before a command leaves what happens out of the transcript.
fn run_told_or_not(cluster: &mut Cluster, mut line: Line<'_>) -> Result<(), String> {
    let quietly = line.words[0] == "quietly";
    if quietly {
        line.words.remove(0);
    }
    run(cluster, &line)?;
    if quietly {
        cluster.take_transcript();
    }
    Ok(())
}

fn run(cluster: &mut Cluster, line: &Line<'_>) -> Result<(), String> {
    let verb = line.word(0)?;
    match verb {
        "campaign" => cluster.campaign(line.replica(1)?),
        "propose" => {
            let payloads = line.words.iter().skip(2);
            let payloads = payloads.map(|word| Bytes::copy_from_slice(word.as_bytes()));
            cluster.propose(line.replica(1)?, payloads.collect());
        }
        "stamp" => cluster.propose_stamp(line.replica(1)?, Stamp(line.number(2)?)),
        "change" => {
            let changes = changes(line)?;
            cluster.change(line.replica(1)?, &changes);
        }
        "force" => cluster.force_membership(line.replica(1)?, membership(line)?),
        "read" => cluster.read(line.replica(1)?, ReadId(line.number(2)?), policy(line)?),
        "delay" => cluster.delay(line.replica(1)?, line.duration(2)?),
        "pause" => cluster.paused.extend(line.replicas(1)?),
        "resume" => line.replicas(1)?.iter().for_each(|id| {
            cluster.paused.remove(id);
        }),
        "transfer" => cluster.transfer(line.replica(1)?, line.replica(2)?),
        "tick" => line.replicas(1)?.into_iter().for_each(|id| cluster.tick(id)),
        "advance" => cluster.advance(Duration::from_millis(number(
            line.word(1)?.trim_end_matches("ms"),
        )?)),
        "sync" => sync(cluster, line)?,
        "apply" => cluster.apply(line.replica(1)?, line.size("count", usize::MAX)?),
        "checkpoint" => line
            .replicas(1)?
            .into_iter()
            .for_each(|id| cluster.checkpoint(id)),
        "truncate" => cluster.truncate(line.replica(1)?, Index(line.number(2)?)),
        "unreachable" => cluster.unreachable(line.replica(1)?, line.replica(2)?),
        "fetched" => cluster.fetched(line.replica(1)?, line.size("count", usize::MAX)?),
        "crash" => line.replicas(1)?.into_iter().for_each(|id| cluster.crash(id)),
        "restart" => line.replicas(1)?.into_iter().for_each(|id| cluster.restart(id)),
        "restore" => restore(cluster, line)?,
        "hold" => cluster.held.extend(line.replicas(1)?),
        "release" => line.replicas(1)?.into_iter().for_each(|id| cluster.release(id)),
        "status" => status(cluster, line)?,
        "members" => {
            let id = line.replica(1)?;
            if let Some(membership) = cluster.replica(id).map(|replica| replica.membership().clone()) {
                cluster.tell(format_args!("{id} {membership}"));
            }
        }
        "log" => show_log(cluster, line.replica(1)?),
        _ => return run_on_links(cluster, line, verb),
    }
    Ok(())
}

fn run_on_links(cluster: &mut Cluster, line: &Line<'_>, verb: &str) -> Result<(), String> {
    match verb {
        "deliver" => on_messages(cluster, line, Cluster::deliver)?,
        "drop" => on_messages(cluster, line, Cluster::lose)?,
        "duplicate" => on_messages(cluster, line, Cluster::duplicate)?,
        "reorder" => {
            for link in links(cluster, line)? {
                cluster.links.entry(link).or_default().make_contiguous().reverse();
            }
        }
        "snapshot" => snapshot(cluster, line)?,
        "offer" => offer(cluster, line)?,
        "links" => show_links(cluster),
        "cut" => {
            let words = line.words.iter().skip(1).filter_map(|word| word.split_once("->"));
            for (from, to) in words {
                cluster
                    .cut
                    .insert((ReplicaId(number(from)?), ReplicaId(number(to)?)));
            }
        }
        "partition" => partition(cluster, line)?,
        "heal" => cluster.cut.clear(),
        "stabilize" => stabilize(cluster, &line.chosen(cluster, 1)?),
        "run" => run_for(cluster, line.duration(1)?, &line.chosen(cluster, 2)?),
        _ => return Err(format!("`{verb}` is no command")),
    }
    Ok(())
}

/// `snapshot 1->3 [read|arrive|lose|again]`: of the oldest one ordered; without a word, it is read and arrives. `again`: it
/// arrives, and another copy of it is still on its way.
fn snapshot(cluster: &mut Cluster, line: &Line<'_>) -> Result<(), String> {
    let (from, to) = line.word(1)?.split_once("->").ok_or("`snapshot` needs a link")?;
    let (from, to) = (ReplicaId(number(from)?), ReplicaId(number(to)?));
    let fits = |parcel: &&Parcel| (parcel.from, parcel.order.peer) == (from, to);
    let found = cluster.parcels.iter().find(fits).cloned();
    let found = found.ok_or("no snapshot was ordered")?;
    match line.words.get(2).copied() {
        None => {
            cluster.read_snapshot(from, to);
            cluster.arrive(from, to);
        }
        Some("read") => cluster.read_snapshot(from, to),
        Some("arrive") => cluster.arrive(from, to),
        Some("again") => {
            cluster.arrive(from, to);
            cluster.parcels.push(found);
        }
        Some("lose") => cluster.lose_snapshot(from, to),
        Some(word) => return Err(format!("`{word}` befalls no snapshot")),
    }
    Ok(())
}

/// `offer 1->3 4@1`: asks whether a snapshot up to there would be news.
fn offer(cluster: &mut Cluster, line: &Line<'_>) -> Result<(), String> {
    let (from, to) = line.word(1)?.split_once("->").ok_or("`offer` needs a link")?;
    let (index, term) = line.word(2)?.split_once('@').ok_or("`offer` needs an entry")?;
    let snapshot = EntryId::new(number(term)?, number(index)?);
    cluster.offer(ReplicaId(number(from)?), ReplicaId(number(to)?), snapshot);
    Ok(())
}

fn sync(cluster: &mut Cluster, line: &Line<'_>) -> Result<(), String> {
    let named = line.replicas(1)?;
    let chosen = if named.is_empty() { cluster.up() } else { named };
    for id in chosen {
        let waiting = cluster.hosts.get(&id).map_or(0, |host| host.unsynced.len());
        for _ in 0..waiting.min(line.size("count", usize::MAX)?) {
            cluster.sync(id);
        }
    }
    Ok(())
}

/// `lease`, `here`, `within 50ms`; confirmed without a word.
fn policy(line: &Line<'_>) -> Result<ReadPolicy, String> {
    match line.word(3) {
        Err(_) => Ok(ReadPolicy::Confirmed),
        Ok("lease") => Ok(ReadPolicy::Lease),
        Ok("here") => Ok(ReadPolicy::Here),
        Ok("within") => line.duration(4).map(ReadPolicy::Within),
        Ok(word) => Err(format!("`{word}` is no way to read")),
    }
}

/// `add=4,5@9 promote=4 demote=2 remove=3`: a new replica lives on the node of its number, or where it says.
fn changes(line: &Line<'_>) -> Result<Vec<MemberChange>, String> {
    let mut changes = Vec::new();
    for (verb, names) in &line.pairs {
        for name in names.split(',') {
            let (id, node) = name.split_once('@').unwrap_or((name, name));
            let id = ReplicaId(number(id)?);
            changes.push(match *verb {
                "add" => MemberChange::Add(id, NodeId(number(node)?)),
                "promote" => MemberChange::Promote(id),
                "demote" => MemberChange::Demote(id),
                "remove" => MemberChange::Remove(id),
                _ => return Err(format!("`{verb}` is no change")),
            });
        }
    }
    Ok(changes)
}

fn membership(line: &Line<'_>) -> Result<Membership, String> {
    let (voters, outgoing, learners) = (line.set("voters")?, line.set("outgoing")?, line.set("learners")?);
    let everyone = voters.iter().chain(&outgoing).chain(&learners);
    let nodes = everyone.map(|id| (*id, NodeId(id.0))).collect();
    Ok(Membership {
        voters,
        outgoing,
        learners,
        nodes,
    })
}

/// `restore 2 term=3 vote=1 log=1,1,2 truncated=4@1 commit=2 checkpointed=1`
fn restore(cluster: &mut Cluster, line: &Line<'_>) -> Result<(), String> {
    let id = line.replica(1)?;
    let host = cluster.hosts.get(&id).ok_or("no such replica")?;
    let (index, term) = line
        .pair("truncated")
        .and_then(|id| id.split_once('@'))
        .unwrap_or(("0", "0"));
    let mut disk = Disk {
        membership: host.disk.membership.clone(),
        truncated: EntryId::new(number(term)?, number(index)?),
        commit: Index(line.value("commit", 0)?),
        checkpointed: Index(line.value("checkpointed", 0)?),
        ..Disk::default()
    };
    for term in line
        .pair("log")
        .unwrap_or_default()
        .split(',')
        .filter(|term| !term.is_empty())
    {
        let id = EntryId::new(number(term)?, disk.last().index.0 + 1);
        let payload = Payload::Command(Stamp(0), Bytes::from(format!("e{}", id.index)));
        disk.entries.push(Entry { id, payload });
    }
    disk.hard_state.term.0 = line.value("term", disk.last().term.0)?;
    disk.hard_state.vote = line.pair("vote").map(number).transpose()?.map(ReplicaId);
    cluster.restore(id, disk);
    Ok(())
}

fn status(cluster: &mut Cluster, line: &Line<'_>) -> Result<(), String> {
    for id in line.chosen(cluster, 1)? {
        match cluster.replica(id).map(crate::Replica::status) {
            Some(status) => cluster.tell(status),
            None => cluster.tell(format_args!("{id} is down")),
        }
    }
    Ok(())
}

fn show_log(cluster: &mut Cluster, id: ReplicaId) {
    let Some(replica) = cluster.replica(id) else {
        return;
    };
    let entries = replica
        .log
        .slice(replica.log.cold().next(), replica.log.last().index);
    let entries: Vec<String> = entries.iter().map(Entry::to_string).collect();
    let (truncated, cold) = (replica.log.truncated(), replica.log.cold());
    let line = format!("{id} truncated={truncated} cold={cold} [{}]", entries.join(", "));
    cluster.tell(line);
}

fn show_links(cluster: &mut Cluster) {
    let queued: Vec<String> = cluster
        .links
        .values()
        .flatten()
        .map(ToString::to_string)
        .collect();
    for line in queued {
        cluster.tell(line);
    }
}

/// The links that the words `1->2 3->*` name; all of them when there is none.
fn links(cluster: &Cluster, line: &Line<'_>) -> Result<Vec<Link>, String> {
    let known: Vec<Link> = cluster.links.keys().copied().collect();
    let words: Vec<&&str> = line
        .words
        .iter()
        .skip(1)
        .filter(|word| word.contains("->"))
        .collect();
    if words.is_empty() {
        return Ok(known);
    }
    let mut chosen = Vec::new();
    for word in words {
        let (from, to) = word.split_once("->").expect("filtered");
        let fits = |pattern: &str, id: ReplicaId| pattern == "*" || pattern == id.0.to_string();
        let fitting = known.iter().filter(|link| fits(from, link.0) && fits(to, link.1));
        chosen.extend(fitting);
    }
    Ok(chosen)
}

/// Does something with messages that are on their way now: all of the chosen links, or the first `count` of
/// each, or only the one `at` a position (1: the oldest; `last`).
fn on_messages(
    cluster: &mut Cluster,
    line: &Line<'_>,
    what: fn(&mut Cluster, Link, usize),
) -> Result<(), String> {
    let chosen = links(cluster, line)?;
    let waiting = chosen.iter().map(|link| cluster.links[link].len());
    for (link, waiting) in chosen.iter().zip(waiting.collect::<Vec<_>>()) {
        match line.pair("at") {
            _ if waiting == 0 => {}
            Some("last") => what(cluster, *link, waiting - 1),
            Some(position) => what(cluster, *link, number(position)? as usize - 1),
            None => {
                for _ in 0..waiting.min(line.size("count", usize::MAX)?) {
                    what(cluster, *link, 0);
                }
            }
        }
    }
    Ok(())
}

/// `partition 1 2 | 3`: nothing passes between the sides, what was on its way is lost.
fn partition(cluster: &mut Cluster, line: &Line<'_>) -> Result<(), String> {
    let sides: Vec<&[&str]> = line.words[1..].split(|word| *word == "|").collect();
    let mut side_of = std::collections::BTreeMap::new();
    for (side, words) in sides.iter().enumerate() {
        for word in *words {
            side_of.insert(ReplicaId(number(word)?), side);
        }
    }
    for (from, side) in &side_of {
        for (to, _) in side_of.iter().filter(|(_, other)| *other != side) {
            cluster.cut.insert((*from, *to));
            cluster.links.remove(&(*from, *to));
        }
    }
    Ok(())
}

/// Lets time pass for everybody, and stabilizes `chosen` whenever something was due.
fn run_for(cluster: &mut Cluster, duration: Duration, chosen: &BTreeSet<ReplicaId>) {
    let end = cluster.now + duration;
    stabilize(cluster, chosen);
    while cluster.now < end {
        let next = cluster.next_deadline().unwrap_or(end).clamp(cluster.now, end);
        cluster.advance(next - cluster.now);
        stabilize(cluster, chosen);
    }
}

/// Syncs, delivers and fetches among `chosen` until nothing is left to do. Time stands still.
fn stabilize(cluster: &mut Cluster, chosen: &BTreeSet<ReplicaId>) {
    loop {
        let mut idle = true;
        for id in chosen {
            while cluster
                .hosts
                .get(id)
                .is_some_and(|host| !host.unsynced.is_empty())
            {
                cluster.sync(*id);
                idle = false;
            }
            while cluster.fetches.iter().any(|(from, _)| from == id) {
                cluster.fetched(*id, usize::MAX);
                idle = false;
            }
        }
        let inside = |link: &&Link| chosen.contains(&link.0) && chosen.contains(&link.1);
        let links: Vec<Link> = cluster.links.keys().filter(inside).copied().collect();
        for link in links {
            for _ in 0..cluster.links[&link].len() {
                cluster.deliver(link, 0);
                idle = false;
            }
        }
        let parcels = cluster.parcels.iter();
        let inside = parcels
            .map(|parcel| (parcel.from, parcel.order.peer))
            .find(|(from, to)| chosen.contains(from) && chosen.contains(to));
        if let Some((from, to)) = inside {
            cluster.read_snapshot(from, to);
            cluster.arrive(from, to);
            idle = false;
        }
        if idle {
            return;
        }
    }
}
