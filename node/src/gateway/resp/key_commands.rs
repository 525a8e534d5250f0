//! The commands on keys of any type: existence, deadlines, walking.

use super::call::{Call, NOT_AN_INTEGER, Outcome, Refused, SYNTAX, as_c_string};
use super::gather::{Gather, Join, ScanStep, keys_part, range_of, scan_part};
use super::limits::SCAN_COUNT_DEFAULT;
use super::pipeline::Work;
use super::shape::{Shape, Unit, invalid_expire};
use super::string_commands::slices;
use crate::kv::limits::SCAN_EXAMINED_MAX;
use crate::kv::{Command, ExpireCondition, Lifetime, Query, Slice};
use crate::service::Kind;
use bytes::Bytes;

pub(super) fn del(call: &mut Call<'_>) -> Outcome {
    if call.arguments.len() == 2 {
        let key = Slice(call.argument(1));
        return call.write(key.0, &Command::Delete { keys: vec![key] }, Shape::Plain);
    }
    let groups = call.keys_by_group();
    let encode = |places: &[usize]| {
        Command::Delete {
            keys: slices(call, places),
        }
        .encode()
    };
    call.for_each_group(&groups, Kind::Write, encode, Join::Sum(0))
}

pub(super) fn rename(call: &mut Call<'_>) -> Outcome {
    rename_to(call, false, Shape::ExistingOk)
}

pub(super) fn renamenx(call: &mut Call<'_>) -> Outcome {
    rename_to(call, true, Shape::Existing)
}

fn rename_to(call: &Call<'_>, absent: bool, shape: Shape) -> Outcome {
    call.demand_one_tag(1)?;
    let (key, to) = (Slice(call.argument(1)), Slice(call.argument(2)));
    call.write_several(key.0, &Command::Rename { key, to, absent }, shape)
}

pub(super) fn exists(call: &mut Call<'_>) -> Outcome {
    let groups = call.keys_by_group();
    let encode = |places: &[usize]| {
        Query::Exists {
            keys: slices(call, places),
        }
        .encode()
    };
    call.for_each_group(&groups, Kind::Read, encode, Join::Sum(0))
}

pub(super) fn type_of(call: &mut Call<'_>) -> Outcome {
    let key = Slice(call.argument(1));
    call.read(key.0, &Query::Exists { keys: vec![key] }, Shape::TypeName)
}

pub(super) fn expire(call: &mut Call<'_>) -> Outcome {
    set_deadline(call, Unit::Seconds, Lifetime::After)
}

pub(super) fn pexpire(call: &mut Call<'_>) -> Outcome {
    set_deadline(call, Unit::Milliseconds, Lifetime::After)
}

pub(super) fn expireat(call: &mut Call<'_>) -> Outcome {
    set_deadline(call, Unit::Seconds, Lifetime::Until)
}

pub(super) fn pexpireat(call: &mut Call<'_>) -> Outcome {
    set_deadline(call, Unit::Milliseconds, Lifetime::Until)
}

fn set_deadline(call: &Call<'_>, unit: Unit, lifetime: fn(i64) -> Lifetime) -> Outcome {
    let condition = expire_condition(call)?;
    let amount = call.integer(2)?;
    let factor = if unit == Unit::Seconds { 1000 } else { 1 };
    let amount = amount
        .checked_mul(factor)
        .ok_or_else(|| invalid_expire(call.spec))?;
    let key = call.argument(1);
    let command = Command::Expire {
        key: Slice(key),
        lifetime: lifetime(amount),
        condition,
    };
    call.write(key, &command, Shape::Plain)
}

fn expire_condition(call: &Call<'_>) -> Result<ExpireCondition, Refused> {
    let mut condition = ExpireCondition::default();
    for at in 3..call.arguments.len() {
        match () {
            () if call.is(at, "nx") => condition.none = true,
            () if call.is(at, "xx") => condition.some = true,
            () if call.is(at, "gt") => condition.later = true,
            () if call.is(at, "lt") => condition.earlier = true,
            () => {
                let option = as_c_string(call.argument(at), usize::MAX);
                return Err(Refused::quoting("ERR Unsupported option ", option, ""));
            }
        }
    }
    if condition.none && (condition.some || condition.later || condition.earlier) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
    }
    if condition.later && condition.earlier {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    Ok(condition)
}

pub(super) fn persist(call: &mut Call<'_>) -> Outcome {
    let key = call.argument(1);
    let command = Command::Expire {
        key: Slice(key),
        lifetime: Lifetime::Forever,
        condition: ExpireCondition::default(),
    };
    call.write(key, &command, Shape::Plain)
}

pub(super) fn ttl(call: &mut Call<'_>) -> Outcome {
    ask_deadline(call, Shape::Remaining(Unit::Seconds))
}

pub(super) fn pttl(call: &mut Call<'_>) -> Outcome {
    ask_deadline(call, Shape::Remaining(Unit::Milliseconds))
}

pub(super) fn expiretime(call: &mut Call<'_>) -> Outcome {
    ask_deadline(call, Shape::Deadline(Unit::Seconds))
}

pub(super) fn pexpiretime(call: &mut Call<'_>) -> Outcome {
    ask_deadline(call, Shape::Deadline(Unit::Milliseconds))
}

fn ask_deadline(call: &Call<'_>, shape: Shape) -> Outcome {
    let key = call.argument(1);
    call.read(key, &Query::Expiry { key: Slice(key) }, shape)
}

pub(super) fn keys(call: &mut Call<'_>) -> Outcome {
    let pattern = Bytes::copy_from_slice(call.argument(1));
    let ranges = call.node.service.ranges();
    let parts = ranges
        .iter()
        .map(|range| keys_part(range.group, &range.start, &pattern))
        .collect();
    Ok(Some(Work::Many(
        parts,
        Gather::new(Join::Keys {
            pattern,
            keys: Vec::new(),
        }),
    )))
}

pub(super) fn scan(call: &mut Call<'_>) -> Outcome {
    let cursor = std::str::from_utf8(call.argument(1))
        .ok()
        .and_then(|text| text.parse::<u64>().ok());
    let cursor = cursor.ok_or(Refused::from("ERR invalid cursor"))?;
    let (mut pattern, mut examine, mut strings) = (None, SCAN_COUNT_DEFAULT, true);
    for at in (2..call.arguments.len()).step_by(2) {
        let has_value = at + 1 < call.arguments.len();
        match () {
            () if has_value && call.is(at, "count") => examine = scan_count(call, at + 1)?,
            () if has_value && call.is(at, "match") => {
                pattern = Some(Bytes::copy_from_slice(call.argument(at + 1)))
            }
            () if has_value && call.is(at, "type") => strings = call.is(at + 1, "string"),
            () => return Err(SYNTAX.into()),
        }
    }
    let start = match cursor {
        0 => Bytes::new(),
        cursor => call.node.cursors.position(cursor).ok_or(UNKNOWN_CURSOR)?,
    };
    let range = range_of(&*call.node.service, &start).filter(|_| strings);
    let Some(range) = range else {
        return empty_scan(call);
    };
    let part = scan_part(&range, &start, pattern.as_deref(), examine);
    let cursors = call.node.cursors.clone();
    let step = ScanStep {
        cursors,
        pattern,
        examine,
        range,
        keys: Vec::new(),
        next: None,
    };
    Ok(Some(Work::Many(
        vec![part],
        Gather::new(Join::Scan(Box::new(step))),
    )))
}

const UNKNOWN_CURSOR: &str = "ERR unknown cursor: this node does not remember it (another node's, or too old); start again with cursor 0";

fn scan_count(call: &Call<'_>, at: usize) -> Result<u32, Refused> {
    let count = call.integer(at).map_err(|_| Refused::from(NOT_AN_INTEGER))?;
    if count < 1 {
        return Err(SYNTAX.into());
    }
    Ok(u32::try_from(count)
        .unwrap_or(SCAN_EXAMINED_MAX)
        .min(SCAN_EXAMINED_MAX))
}

/// No key has another type than string.
fn empty_scan(call: &mut Call<'_>) -> Outcome {
    let mut reply = call.reply();
    reply.array(2);
    reply.bulk(b"0");
    reply.array(0);
    Ok(None)
}
