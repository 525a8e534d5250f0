//! The commands about the connection itself: greeting, authentication, names, leaving.

use super::call::{Call, Outcome, Refused, SYNTAX, wrong_arity};
use super::limits::CLIENT_NAME_BYTES_MAX;
use super::reply::Protocol;
use super::session::Replies;
use super::{COMPATIBLE_VERSION, Client};
use crate::kv::number;
use std::sync::PoisonError;

pub(super) fn ping(call: &mut Call<'_>) -> Outcome {
    match call.arguments.len() {
        1 => call.reply().simple("PONG"),
        2 => return echo(call),
        _ => return Err(wrong_arity(call.spec.name)),
    }
    Ok(None)
}

pub(super) fn echo(call: &mut Call<'_>) -> Outcome {
    let text = call.argument(1);
    call.reply().bulk(text);
    Ok(None)
}

pub(super) fn quit(call: &mut Call<'_>) -> Outcome {
    call.standing.closing = true;
    call.reply().ok();
    Ok(None)
}

pub(super) fn reset(call: &mut Call<'_>) -> Outcome {
    call.standing.protocol = Protocol::Two;
    call.standing.authenticated = call.node.options.password.is_none();
    call.standing.replies = Replies::On;
    call.standing.forget_transaction();
    set_name(call, b"")?;
    call.reply().simple("RESET");
    Ok(None)
}

pub(super) fn select(call: &mut Call<'_>) -> Outcome {
    match i32::try_from(call.integer(1)?) {
        Ok(0) => call.reply().ok(),
        Ok(_) => return Err("ERR DB index is out of range".into()),
        Err(_) => return Err(super::call::NOT_AN_INTEGER.into()),
    }
    Ok(None)
}

pub(super) fn auth(call: &mut Call<'_>) -> Outcome {
    match call.arguments.len() {
        2 if call.node.options.password.is_none() => {
            return Err(NO_PASSWORD_CONFIGURED.into());
        }
        2 => authenticate(call, b"default", 1)?,
        3 => authenticate(call, call.argument(1), 2)?,
        _ => return Err(SYNTAX.into()),
    }
    call.reply().ok();
    Ok(None)
}

const NO_PASSWORD_CONFIGURED: &str = "ERR AUTH <password> called without any password configured for the default \
    user. Are you sure your configuration is correct?";

fn authenticate(call: &mut Call<'_>, user: &[u8], password_at: usize) -> Result<(), Refused> {
    let given = call.argument(password_at);
    let right = call
        .node
        .options
        .password
        .as_ref()
        .is_none_or(|password| equal(password.as_bytes(), given));
    if user != b"default" || !right {
        return Err("WRONGPASS invalid username-password pair or user is disabled.".into());
    }
    call.standing.authenticated = true;
    Ok(())
}

/// Compares in a time that does not depend on where they differ.
fn equal(secret: &[u8], given: &[u8]) -> bool {
    let difference = secret.iter().zip(given).fold(0, |found, (a, b)| found | (a ^ b));
    secret.len() == given.len() && difference == 0
}

pub(super) fn hello(call: &mut Call<'_>) -> Outcome {
    let protocol = match call.arguments.len() {
        1 => call.standing.protocol,
        _ => match number::parse(call.argument(1)) {
            Some(2) => Protocol::Two,
            Some(3) => Protocol::Three,
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
            None => return Err("ERR Protocol version is not an integer or out of range".into()),
        },
    };
    let name_at = hello_options(call)?;
    if !call.standing.authenticated {
        return Err(HELLO_UNAUTHENTICATED.into());
    }
    if let Some(at) = name_at {
        set_name(call, call.argument(at))?;
    }
    call.standing.protocol = protocol;
    write_greeting(call);
    Ok(None)
}

const HELLO_UNAUTHENTICATED: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
    HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol \
    version at the same time";

/// Authenticates, and finds the name to set.
fn hello_options(call: &mut Call<'_>) -> Result<Option<usize>, Refused> {
    let (mut at, mut name_at) = (2, None);
    while at < call.arguments.len() {
        let left = call.arguments.len() - 1 - at;
        if call.is(at, "auth") && left >= 2 {
            authenticate(call, call.argument(at + 1), at + 2)?;
            at += 3;
        } else if call.is(at, "setname") && left >= 1 {
            check_name(call.argument(at + 1), BAD_NAME)?;
            name_at = Some(at + 1);
            at += 2;
        } else {
            return Err(Refused::quoting(
                "ERR Syntax error in HELLO option '",
                call.argument(at),
                "'",
            ));
        }
    }
    Ok(name_at)
}

fn write_greeting(call: &mut Call<'_>) {
    let id = call.standing.client.id.cast_signed();
    let protocol = if call.standing.protocol == Protocol::Three {
        3
    } else {
        2
    };
    let mut reply = call.reply();
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(COMPATIBLE_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(protocol);
    reply.bulk(b"id");
    reply.integer(id);
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
}

pub(super) fn client(call: &mut Call<'_>) -> Outcome {
    match call.subcommand()? {
        "id" => {
            let id = call.standing.client.id.cast_signed();
            call.reply().integer(id);
        }
        "getname" => client_getname(call),
        "setname" => {
            set_name(call, call.argument(2))?;
            call.reply().ok();
        }
        "setinfo" => client_setinfo(call)?,
        "info" => {
            let line = call.standing.client.describe() + "\n";
            call.reply().verbatim(&line);
        }
        "list" => client_list(call)?,
        "no-evict" => on_or_off(call, 2).map(|_| call.reply().ok())?,
        "reply" => client_reply(call)?,
        other => unreachable!("{other} is in the table"),
    }
    Ok(None)
}

fn client_getname(call: &mut Call<'_>) {
    let name = call
        .standing
        .client
        .facts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .name
        .clone();
    match name.is_empty() {
        true => call.reply().null(),
        false => call.reply().bulk(name.as_bytes()),
    }
}

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

fn check_name(name: &[u8], error: &'static str) -> Result<String, Refused> {
    if name.len() > CLIENT_NAME_BYTES_MAX || !name.iter().all(u8::is_ascii_graphic) {
        return Err(error.into());
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn set_name(call: &Call<'_>, name: &[u8]) -> Result<(), Refused> {
    let name = check_name(name, BAD_NAME)?;
    call.standing
        .client
        .facts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .name = name;
    Ok(())
}

fn client_setinfo(call: &mut Call<'_>) -> Result<(), Refused> {
    const ERROR: &str =
        "ERR Library names and versions cannot contain spaces, newlines or special characters.";
    let text = check_name(call.argument(3), ERROR)?;
    let mut facts = call
        .standing
        .client
        .facts
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    match () {
        () if call.is(2, "lib-name") => facts.library = text,
        () if call.is(2, "lib-ver") => facts.library_version = text,
        () => {
            return Err(Refused::quoting(
                "ERR Unrecognized option '",
                call.argument(2),
                "'",
            ));
        }
    }
    drop(facts);
    call.reply().ok();
    Ok(())
}

fn client_list(call: &mut Call<'_>) -> Result<(), Refused> {
    let all = call.arguments.len() == 2;
    let normal = call.arguments.len() == 4 && call.is(2, "type") && call.is(3, "normal");
    if !all && !normal {
        return Err(SYNTAX.into());
    }
    let clients = call.node.clients.lock().unwrap_or_else(PoisonError::into_inner);
    let lines: String = clients
        .values()
        .map(|client: &std::sync::Arc<Client>| client.describe() + "\n")
        .collect();
    drop(clients);
    call.reply().verbatim(&lines);
    Ok(())
}

fn on_or_off(call: &Call<'_>, at: usize) -> Result<bool, Refused> {
    match () {
        () if call.is(at, "on") => Ok(true),
        () if call.is(at, "off") => Ok(false),
        () => Err(SYNTAX.into()),
    }
}

fn client_reply(call: &mut Call<'_>) -> Result<(), Refused> {
    match () {
        () if call.is(2, "on") => {
            call.standing.replies = Replies::On;
            call.reply().ok();
        }
        () if call.is(2, "off") => call.standing.replies = Replies::Off,
        () if call.is(2, "skip") && call.standing.replies == Replies::On => {
            call.standing.replies = Replies::SkipNext;
        }
        () if call.is(2, "skip") => {}
        () => return Err(SYNTAX.into()),
    }
    Ok(())
}
