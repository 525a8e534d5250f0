//! Every command this gateway knows: arity, flags, where its keys are, what it does. The one source of arity errors,
//! of COMMAND's replies and of docs/resp.md.

use super::call::{Call, Refused};
use super::codec::Arguments;
use super::pipeline::Work;
use super::string_commands as strings;
use super::transaction_commands as transactions;
use super::{connection_commands as connection, key_commands as keys, server_commands as server};

/// What a command does: writes its reply (`None`), or says what is to be done first.
pub(super) type Run = fn(&mut Call<'_>) -> Result<Option<Work>, Refused>;

/// One command.
pub(super) struct Spec {
    /// Lower case.
    pub(super) name: &'static str,
    /// Number of arguments, the name included; negative: at least so many.
    pub(super) arity: i64,
    /// As COMMAND INFO names them.
    pub(super) flags: &'static [&'static str],
    /// Position of the first key, of the last (negative: from the end), and the step; all 0: no keys.
    pub(super) keys: (usize, i64, usize),
    /// Group in the documentation.
    pub(super) group: &'static str,
    /// One line.
    pub(super) summary: &'static str,
    /// Names and arity of its subcommands.
    pub(super) subcommands: &'static [(&'static str, i64)],
    /// What it does.
    pub(super) run: Run,
}

impl Spec {
    /// True if so many arguments (the name included) are possible.
    pub(super) fn takes(&self, arguments: usize) -> bool {
        takes(self.arity, arguments)
    }

    /// The keys of a call with so many arguments as its arity demands.
    pub(super) fn keys_of<'a>(&self, arguments: &Arguments<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (first, last, step) = self.keys;
        let end = match usize::try_from(last) {
            Ok(0) => 0,
            Ok(last) => last + 1,
            Err(_) => arguments.len(), // the last argument, or the one before it
        };
        let arguments = *arguments;
        (first..end).step_by(step.max(1)).map(move |at| arguments.get(at))
    }

    /// True if it may be sent before authentication.
    pub(super) fn is_open(&self) -> bool {
        self.flags.contains(&"no_auth")
    }
}

/// True if an arity allows so many arguments.
pub(super) fn takes(arity: i64, arguments: usize) -> bool {
    let wanted = usize::try_from(arity.unsigned_abs()).unwrap_or(usize::MAX);
    if arity < 0 {
        arguments >= wanted
    } else {
        arguments == wanted
    }
}

/// The position in `COMMANDS` of a command, by its name in any case.
pub(super) fn find(name: &[u8]) -> Option<usize> {
    let mut lower = [0; LONGEST_NAME];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    COMMANDS
        .binary_search_by(|spec| spec.name.as_bytes().cmp(lower))
        .ok()
}

const LONGEST_NAME: usize = 16;

macro_rules! commands {
    ($($name:literal $arity:literal [$($flag:ident)*] ($first:literal $last:literal $step:literal) $group:ident
        $summary:literal => $run:path $(, { $($sub:literal $sub_arity:literal)* })?;)*) => {
        &[$(Spec {
            name: $name,
            arity: $arity,
            flags: &[$(stringify!($flag)),*],
            keys: ($first, $last, $step),
            group: stringify!($group),
            summary: $summary,
            subcommands: &[$($(($sub, $sub_arity)),*)?],
            run: $run,
        }),*]
    };
}

/// Sorted by name.
pub(super) static COMMANDS: &[Spec] = commands! {
    "append" 3 [write denyoom fast] (1 1 1) string "Append to a value." => strings::append;
    "auth" -2 [noscript loading stale fast no_auth allow_busy] (0 0 0) connection "Authenticate." => connection::auth;
    "client" -2 [] (0 0 0) connection "Ask and tell about connections." => connection::client, {
        "getname" 2 "id" 2 "info" 2 "list" -2 "no-evict" 3 "reply" 3 "setinfo" 4 "setname" 3
    };
    "command" -1 [loading stale] (0 0 0) server "Describe commands." => server::command, {
        "count" 2 "docs" -2 "info" -2 "list" 2
    };
    "config" -2 [] (0 0 0) server "Read the configuration." => server::config, { "get" -3 };
    "dbsize" 1 [readonly fast] (0 0 0) server "Count the keys." => server::dbsize;
    "decr" 2 [write denyoom fast] (1 1 1) string "Subtract one from an integer." => strings::decr;
    "decrby" 3 [write denyoom fast] (1 1 1) string "Subtract from an integer." => strings::decrby;
    "del" -2 [write] (1 -1 1) generic "Remove keys." => keys::del;
    "discard" 1 [noscript loading stale fast allow_busy] (0 0 0) transactions "Forget what was queued since MULTI."
        => transactions::discard;
    "echo" 2 [loading stale fast] (0 0 0) connection "Reply with the argument." => connection::echo;
    "exec" 1 [noscript loading stale skip_slowlog] (0 0 0) transactions
        "Do what was queued since MULTI, unless a watched key has changed." => transactions::exec;
    "exists" -2 [readonly fast] (1 -1 1) generic "Count which of these keys exist." => keys::exists;
    "expire" -3 [write fast] (1 1 1) generic "Set a time to live in seconds." => keys::expire;
    "expireat" -3 [write fast] (1 1 1) generic "Set a deadline in seconds since 1970." => keys::expireat;
    "expiretime" 2 [readonly fast] (1 1 1) generic "The deadline in seconds since 1970." => keys::expiretime;
    "flushall" -1 [write] (0 0 0) server "Remove all keys, if the node allows it." => server::flush;
    "flushdb" -1 [write] (0 0 0) server "Remove all keys, if the node allows it." => server::flush;
    "get" 2 [readonly fast] (1 1 1) string "Read a value." => strings::get;
    "getdel" 2 [write fast] (1 1 1) string "Read a value and remove the key." => strings::getdel;
    "getex" -2 [write fast] (1 1 1) string "Read a value and change its time to live." => strings::getex;
    "getrange" 4 [readonly] (1 1 1) string "Read part of a value." => strings::getrange;
    "getset" 3 [write denyoom fast] (1 1 1) string "Write a value and reply with the old one." => strings::getset;
    "hello" -1 [noscript loading stale fast no_auth allow_busy] (0 0 0) connection "Choose the version of the protocol."
        => connection::hello;
    "incr" 2 [write denyoom fast] (1 1 1) string "Add one to an integer." => strings::incr;
    "incrby" 3 [write denyoom fast] (1 1 1) string "Add to an integer." => strings::incrby;
    "incrbyfloat" 3 [write denyoom fast] (1 1 1) string "Add to a number with a fraction." => strings::incrbyfloat;
    "info" -1 [loading stale] (0 0 0) server "Facts about this node." => server::info;
    "keys" 2 [readonly] (0 0 0) generic "All keys that match a pattern." => keys::keys;
    "mget" -2 [readonly fast] (1 -1 1) string "Read several values." => strings::mget;
    "mset" -3 [write denyoom] (1 -1 2) string "Write several values of one tag at once." => strings::mset;
    "msetnx" -3 [write denyoom] (1 -1 2) string "Write several values of one tag if none of the keys exists."
        => strings::msetnx;
    "multi" 1 [noscript loading stale fast allow_busy] (0 0 0) transactions "Queue what follows, until EXEC."
        => transactions::multi;
    "persist" 2 [write fast] (1 1 1) generic "Remove the deadline." => keys::persist;
    "pexpire" -3 [write fast] (1 1 1) generic "Set a time to live in milliseconds." => keys::pexpire;
    "pexpireat" -3 [write fast] (1 1 1) generic "Set a deadline in milliseconds since 1970." => keys::pexpireat;
    "pexpiretime" 2 [readonly fast] (1 1 1) generic "The deadline in milliseconds since 1970." => keys::pexpiretime;
    "ping" -1 [fast] (0 0 0) connection "Reply with PONG or the argument." => connection::ping;
    "psetex" 4 [write denyoom] (1 1 1) string "Write a value that lives for so many milliseconds." => strings::psetex;
    "pttl" 2 [readonly fast] (1 1 1) generic "The time to live in milliseconds." => keys::pttl;
    "quit" -1 [noscript loading stale fast no_auth allow_busy] (0 0 0) connection "Close the connection."
        => connection::quit;
    "rename" 3 [write] (1 2 1) generic "Give a key of the same tag its value and deadline." => keys::rename;
    "renamenx" 3 [write fast] (1 2 1) generic "Rename if the new key does not exist." => keys::renamenx;
    "reset" 1 [noscript loading stale fast no_auth allow_busy] (0 0 0) connection "Begin anew on this connection."
        => connection::reset;
    "scan" -2 [readonly] (0 0 0) generic "Walk over the keys." => keys::scan;
    "select" 2 [loading stale fast] (0 0 0) connection "Choose the database; there is only 0." => connection::select;
    "set" -3 [write denyoom] (1 1 1) string "Write a value." => strings::set;
    "setex" 4 [write denyoom] (1 1 1) string "Write a value that lives for so many seconds." => strings::setex;
    "setnx" 3 [write denyoom fast] (1 1 1) string "Write a value if the key does not exist." => strings::setnx;
    "setrange" 4 [write denyoom] (1 1 1) string "Overwrite part of a value." => strings::setrange;
    "strlen" 2 [readonly fast] (1 1 1) string "The length of a value." => strings::strlen;
    "substr" 4 [readonly] (1 1 1) string "Read part of a value (old name of GETRANGE)." => strings::getrange;
    "time" 1 [loading stale fast] (0 0 0) server "This node's clock." => server::time;
    "touch" -2 [readonly fast] (1 -1 1) generic "Count which of these keys exist." => keys::exists;
    "ttl" 2 [readonly fast] (1 1 1) generic "The time to live in seconds." => keys::ttl;
    "type" 2 [readonly fast] (1 1 1) generic "The type of a value." => keys::type_of;
    "unlink" -2 [write fast] (1 -1 1) generic "Remove keys." => keys::del;
    "unwatch" 1 [noscript loading stale fast allow_busy] (0 0 0) transactions "Forget the watched keys."
        => transactions::unwatch;
    "watch" -2 [noscript loading stale fast allow_busy] (1 -1 1) transactions "Let EXEC do nothing if these keys change."
        => transactions::watch;
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_found_in_any_case() {
        assert!(COMMANDS.is_sorted_by(|a, b| a.name < b.name));
        assert!(COMMANDS.iter().all(|spec| spec.name.len() <= LONGEST_NAME));
        assert_eq!(find(b"GeT").map(|at| COMMANDS[at].name), Some("get"));
        assert_eq!(find(b"nosuch"), None);
        assert_eq!(find(&[b'x'; 100]), None);
    }
}
