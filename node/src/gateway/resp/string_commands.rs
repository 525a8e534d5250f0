//! The commands on string values: arguments to state machine commands and queries.

use super::call::{Call, Outcome, Refused, SYNTAX, wrong_arity};
use super::gather::Join;
use super::shape::{Shape, Unit, invalid_expire};
use crate::kv::{Command, Condition, Lifetime, Query, Slice};
use crate::service::Kind;

pub(super) fn get(call: &mut Call<'_>) -> Outcome {
    let key = call.argument(1);
    call.read(key, &Query::Get { key: Slice(key) }, Shape::Plain)
}

pub(super) fn set(call: &mut Call<'_>) -> Outcome {
    let (key, value) = (call.argument(1), call.argument(2));
    if call.arguments.len() == 3 {
        return call.write(
            key,
            &Command::Put {
                key: Slice(key),
                value: Slice(value),
            },
            Shape::Plain,
        );
    }
    let options = Options::parse(call, 3, true)?;
    let lifetime = options.lifetime(call)?;
    set_with(call, value, options.condition, lifetime, options.get)
}

pub(super) fn setnx(call: &mut Call<'_>) -> Outcome {
    let (key, value) = (Slice(call.argument(1)), Slice(call.argument(2)));
    let condition = Condition::Absent;
    let command = Command::Set {
        key,
        value,
        condition,
        lifetime: Lifetime::Forever,
        get: false,
    };
    call.write(key.0, &command, Shape::Flag)
}

pub(super) fn setex(call: &mut Call<'_>) -> Outcome {
    let lifetime = positive_lifetime(call, 2, Unit::Seconds, false)?;
    set_with(call, call.argument(3), Condition::Always, lifetime, false)
}

pub(super) fn psetex(call: &mut Call<'_>) -> Outcome {
    let lifetime = positive_lifetime(call, 2, Unit::Milliseconds, false)?;
    set_with(call, call.argument(3), Condition::Always, lifetime, false)
}

pub(super) fn getset(call: &mut Call<'_>) -> Outcome {
    set_with(call, call.argument(2), Condition::Always, Lifetime::Forever, true)
}

fn set_with(call: &Call<'_>, value: &[u8], condition: Condition, lifetime: Lifetime, get: bool) -> Outcome {
    let key = call.argument(1);
    let command = Command::Set {
        key: Slice(key),
        value: Slice(value),
        condition,
        lifetime,
        get,
    };
    call.write(key, &command, Shape::Plain)
}

pub(super) fn getdel(call: &mut Call<'_>) -> Outcome {
    let key = call.argument(1);
    call.write(key, &Command::Take { key: Slice(key) }, Shape::Plain)
}

pub(super) fn getex(call: &mut Call<'_>) -> Outcome {
    let options = Options::parse(call, 2, false)?;
    let key = Slice(call.argument(1));
    match options.lifetime(call) {
        // A key that does not exist is null, whatever the time to live.
        Err(error) => call.read(
            key.0,
            &Query::Exists { keys: vec![key] },
            Shape::ErrorIfPresent(error.0),
        ),
        Ok(lifetime) if options.expiry.is_some() || options.persist => {
            call.write(key.0, &Command::Touch { key, lifetime }, Shape::Plain)
        }
        Ok(_) => call.read(key.0, &Query::Get { key }, Shape::Plain),
    }
}

pub(super) fn mget(call: &mut Call<'_>) -> Outcome {
    let groups = call.keys_by_group();
    let places = groups
        .values()
        .map(|places| places.iter().map(|at| at - 1).collect())
        .collect();
    let join = Join::Values {
        places,
        values: vec![None; call.arguments.len() - 1],
    };
    let encode = |places: &[usize]| {
        Query::GetMany {
            keys: slices(call, places),
        }
        .encode()
    };
    call.for_each_group(&groups, Kind::Read, encode, join)
}

/// The arguments at these positions.
pub(super) fn slices<'a>(call: &Call<'a>, places: &[usize]) -> Vec<Slice<'a>> {
    places.iter().map(|at| Slice(call.argument(*at))).collect()
}

pub(super) fn mset(call: &mut Call<'_>) -> Outcome {
    put_many(call, false, Shape::Ok)
}

pub(super) fn msetnx(call: &mut Call<'_>) -> Outcome {
    put_many(call, true, Shape::Plain)
}

fn put_many(call: &Call<'_>, absent: bool, shape: Shape) -> Outcome {
    if call.arguments.len().is_multiple_of(2) {
        return Err(wrong_arity(call.spec.name));
    }
    call.demand_one_tag(2)?;
    let pairs = (1..call.arguments.len())
        .step_by(2)
        .map(|at| (Slice(call.argument(at)), Slice(call.argument(at + 1))))
        .collect();
    call.write_several(call.argument(1), &Command::PutMany { pairs, absent }, shape)
}

pub(super) fn incr(call: &mut Call<'_>) -> Outcome {
    add(call, 1)
}

pub(super) fn decr(call: &mut Call<'_>) -> Outcome {
    add(call, -1)
}

pub(super) fn incrby(call: &mut Call<'_>) -> Outcome {
    add(call, call.integer(2)?)
}

pub(super) fn decrby(call: &mut Call<'_>) -> Outcome {
    let delta = call
        .integer(2)?
        .checked_neg()
        .ok_or(Refused::from("ERR decrement would overflow"))?;
    add(call, delta)
}

fn add(call: &Call<'_>, delta: i64) -> Outcome {
    let key = call.argument(1);
    call.write(
        key,
        &Command::Add {
            key: Slice(key),
            delta,
        },
        Shape::Plain,
    )
}

pub(super) fn incrbyfloat(call: &mut Call<'_>) -> Outcome {
    let (key, delta) = (Slice(call.argument(1)), Slice(call.argument(2)));
    call.write(key.0, &Command::AddFloat { key, delta }, Shape::Plain)
}

pub(super) fn append(call: &mut Call<'_>) -> Outcome {
    let (key, value) = (Slice(call.argument(1)), Slice(call.argument(2)));
    let bytes_max = call.node.options.value_bytes_max as u64;
    call.write(
        key.0,
        &Command::Append {
            key,
            value,
            bytes_max,
        },
        Shape::Plain,
    )
}

pub(super) fn strlen(call: &mut Call<'_>) -> Outcome {
    let key = call.argument(1);
    call.read(key, &Query::Length { key: Slice(key) }, Shape::Plain)
}

pub(super) fn getrange(call: &mut Call<'_>) -> Outcome {
    let (key, start, end) = (Slice(call.argument(1)), call.integer(2)?, call.integer(3)?);
    call.read(key.0, &Query::Range { key, start, end }, Shape::Plain)
}

pub(super) fn setrange(call: &mut Call<'_>) -> Outcome {
    let (key, value) = (Slice(call.argument(1)), Slice(call.argument(3)));
    let offset = u64::try_from(call.integer(2)?).map_err(|_| Refused::from("ERR offset is out of range"))?;
    let bytes_max = call.node.options.value_bytes_max as u64;
    call.write(
        key.0,
        &Command::SetRange {
            key,
            offset,
            value,
            bytes_max,
        },
        Shape::Plain,
    )
}

/// The options of SET and GETEX.
#[derive(Default)]
struct Options {
    condition: Condition,
    get: bool,
    keep: bool,
    persist: bool,
    expiry: Option<Expiry>,
}

/// An EX, PX, EXAT or PXAT option.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Expiry {
    unit: Unit,
    absolute: bool,
    /// Which argument says how long.
    at: usize,
}

impl Options {
    /// Reads the options from this argument on.
    fn parse(call: &Call<'_>, first: usize, is_set: bool) -> Result<Options, Refused> {
        let mut options = Options::default();
        let mut at = first;
        while at < call.arguments.len() {
            if options.take_word(call, at, is_set) {
                at += 1;
            } else {
                options.take_expiry(call, at)?;
                at += 2;
            }
        }
        Ok(options)
    }

    /// Takes an option without an argument; false: this is none, or it contradicts an earlier one.
    fn take_word(&mut self, call: &Call<'_>, at: usize, is_set: bool) -> bool {
        if is_set && call.is(at, "nx") && self.condition != Condition::Present {
            self.condition = Condition::Absent;
        } else if is_set && call.is(at, "xx") && self.condition != Condition::Absent {
            self.condition = Condition::Present;
        } else if is_set && call.is(at, "get") {
            self.get = true;
        } else if is_set && call.is(at, "keepttl") && self.expiry.is_none() {
            self.keep = true;
        } else if !is_set && call.is(at, "persist") && self.expiry.is_none() {
            self.persist = true;
        } else {
            return false;
        }
        true
    }

    fn take_expiry(&mut self, call: &Call<'_>, at: usize) -> Result<(), Refused> {
        let (unit, absolute) = match () {
            () if call.is(at, "ex") => (Unit::Seconds, false),
            () if call.is(at, "px") => (Unit::Milliseconds, false),
            () if call.is(at, "exat") => (Unit::Seconds, true),
            () if call.is(at, "pxat") => (Unit::Milliseconds, true),
            () => return Err(SYNTAX.into()),
        };
        let repeats = self
            .expiry
            .is_none_or(|old| (old.unit, old.absolute) == (unit, absolute));
        if self.keep || self.persist || !repeats || at + 1 >= call.arguments.len() {
            return Err(SYNTAX.into());
        }
        self.expiry = Some(Expiry {
            unit,
            absolute,
            at: at + 1,
        });
        Ok(())
    }

    fn lifetime(&self, call: &Call<'_>) -> Result<Lifetime, Refused> {
        match self.expiry {
            Some(expiry) => positive_lifetime(call, expiry.at, expiry.unit, expiry.absolute),
            None if self.keep => Ok(Lifetime::Keep),
            None => Ok(Lifetime::Forever),
        }
    }
}

/// A lifetime that must be above zero.
fn positive_lifetime(call: &Call<'_>, at: usize, unit: Unit, absolute: bool) -> Result<Lifetime, Refused> {
    let amount = call.integer(at)?;
    let factor = if unit == Unit::Seconds { 1000 } else { 1 };
    match amount.checked_mul(factor).filter(|ms| *ms > 0) {
        None => Err(invalid_expire(call.spec)),
        Some(ms) if absolute => Ok(Lifetime::Until(ms)),
        Some(ms) => Ok(Lifetime::After(ms)),
    }
}
