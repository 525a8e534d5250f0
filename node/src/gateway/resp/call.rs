//! One call of a command: its arguments, the connection it came on, and the ways to answer it.

use super::Node;
use super::codec::Arguments;
use super::gather::{Gather, Join};
use super::limits::PAYLOAD_BYTES_MAX;
use super::pipeline::{Keys, Part, Work};
use super::reply::Reply;
use super::session::Standing;
use super::shape::Shape;
use super::table::{Spec, takes};
use crate::kv::{Command, Query, number, tag};
use crate::service::{Kind, Target};
use bytes::{Bytes, BytesMut};
use multiraft::GroupId;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Why a command is not done: the text of the error reply, its code first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) Cow<'static, [u8]>);

impl Refused {
    /// The client's bytes between two texts, as they are.
    pub(super) fn quoting(before: &str, quoted: &[u8], after: &str) -> Refused {
        Refused([before.as_bytes(), quoted, after.as_bytes()].concat().into())
    }
}

impl From<&'static str> for Refused {
    fn from(text: &'static str) -> Refused {
        Refused(text.as_bytes().into())
    }
}

impl From<String> for Refused {
    fn from(text: String) -> Refused {
        Refused(text.into_bytes().into())
    }
}

pub(super) const SYNTAX: &str = "ERR syntax error";
pub(super) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

/// What a command's function returns: None if it has written its reply.
pub(super) type Outcome = Result<Option<Work>, Refused>;

/// See the module.
pub(super) struct Call<'a> {
    /// What all connections share.
    pub(super) node: &'a Node,
    /// What this connection has agreed with its client.
    pub(super) standing: &'a mut Standing,
    /// The command.
    pub(super) spec: &'static Spec,
    /// Its arguments, the name first; as many as its arity demands, keys and values within the limits.
    pub(super) arguments: Arguments<'a>,
    /// Where its reply goes.
    pub(super) out: &'a mut BytesMut,
}

impl<'a> Call<'a> {
    pub(super) fn argument(&self, at: usize) -> &'a [u8] {
        self.arguments.get(at)
    }

    pub(super) fn integer(&self, at: usize) -> Result<i64, Refused> {
        number::parse(self.argument(at)).ok_or(NOT_AN_INTEGER.into())
    }

    /// True if this argument is this word, in any case.
    pub(super) fn is(&self, at: usize, word: &str) -> bool {
        self.argument(at).eq_ignore_ascii_case(word.as_bytes())
    }

    pub(super) fn reply(&mut self) -> Reply<'_> {
        Reply {
            out: self.out,
            protocol: self.standing.protocol,
        }
    }

    /// A write to one key.
    pub(super) fn write(&self, key: &[u8], command: &Command<'_>, shape: Shape) -> Outcome {
        let part = self.part(key, Keys::one(key), Kind::Write, command.encode())?;
        Ok(Some(Work::One(part, shape)))
    }

    /// A write to several keys of the group that holds this one.
    pub(super) fn write_several(&self, key: &[u8], command: &Command<'_>, shape: Shape) -> Outcome {
        let part = self.part(key, Keys::Several, Kind::Write, command.encode())?;
        Ok(Some(Work::One(part, shape)))
    }

    /// A read of one key.
    pub(super) fn read(&self, key: &[u8], query: &Query<'_>, shape: Shape) -> Outcome {
        let part = self.part(key, Keys::Several, Kind::Read, query.encode())?;
        Ok(Some(Work::One(part, shape)))
    }

    /// A request routed by a key.
    pub(super) fn part(&self, key: &[u8], keys: Keys, kind: Kind, payload: Bytes) -> Result<Part, Refused> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(format!("ERR the command is longer than {PAYLOAD_BYTES_MAX} bytes").into());
        }
        let group = self.node.service.group_of(key);
        let target = Target::Key(key_in(&payload, key));
        Ok(Part {
            group,
            target,
            kind,
            payload,
            keys,
        })
    }

    /// A command over keys of several groups: one part for each, in the order of the groups.
    pub(super) fn for_each_group(
        &self,
        groups: &BTreeMap<GroupId, Vec<usize>>,
        kind: Kind,
        encode: impl Fn(&[usize]) -> Bytes,
        join: Join,
    ) -> Outcome {
        let parts = groups.values().map(|places| {
            let first = self.argument(places[0]);
            let keys = if places.len() == 1 {
                Keys::one(first)
            } else {
                Keys::Several
            };
            self.part(first, keys, kind, encode(places))
        });
        let parts = parts.collect::<Result<_, _>>()?;
        Ok(Some(Work::Many(parts, Gather::new(join))))
    }

    /// The positions of the keys from the first argument on, by the group that serves them.
    pub(super) fn keys_by_group(&self) -> BTreeMap<GroupId, Vec<usize>> {
        let mut groups: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        for at in 1..self.arguments.len() {
            groups
                .entry(self.node.service.group_of(self.argument(at)))
                .or_default()
                .push(at);
        }
        groups
    }

    /// Refuses keys that one range need not hold together.
    pub(super) fn demand_one_tag(&self, step: usize) -> Result<(), Refused> {
        let first = self.argument(1);
        if (1..self.arguments.len())
            .step_by(step)
            .all(|at| tag::together(first, self.argument(at)))
        {
            return Ok(());
        }
        let name = self.spec.name.to_uppercase();
        Err(format!("CROSSRANGE the keys of {name} must share a leading {{tag}}, so that one range holds them all: {{user7}}name, {{user7}}mail").into())
    }

    /// Which subcommand this is.
    pub(super) fn subcommand(&self) -> Result<&'static str, Refused> {
        let given = self.argument(1);
        let found = self
            .spec
            .subcommands
            .iter()
            .find(|(name, _)| given.eq_ignore_ascii_case(name.as_bytes()));
        let Some((name, arity)) = found else {
            let given = as_c_string(given, 128);
            let name = self.spec.name.to_uppercase();
            return Err(Refused::quoting(
                "ERR unknown subcommand '",
                given,
                &format!("'. Try {name} HELP."),
            ));
        };
        if !takes(*arity, self.arguments.len()) {
            return Err(wrong_arity(&format!("{}|{name}", self.spec.name)));
        }
        Ok(name)
    }
}

/// The error for a wrong number of arguments.
pub(super) fn wrong_arity(name: &str) -> Refused {
    format!("ERR wrong number of arguments for '{name}' command").into()
}

/// Client bytes in an error, cut as a C string of that length would be.
pub(super) fn as_c_string(bytes: &[u8], length_max: usize) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end.min(length_max)]
}

/// The key as a slice of the payload that holds it, so that routing does not copy it. Commands begin with two bytes,
/// then the key, or the number of keys and the first of them.
fn key_in(payload: &Bytes, key: &[u8]) -> Bytes {
    let length_bytes = if key.len() < 128 { 1 } else { 2 };
    for start in [2 + length_bytes, 3 + length_bytes] {
        if payload.get(start..start + key.len()) == Some(key) {
            return payload.slice(start..start + key.len());
        }
    }
    Bytes::copy_from_slice(key)
}
