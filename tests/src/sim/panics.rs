//! Turns a panic of the code under test (an assertion of its own) into a violation with its place, quietly.

use super::check::Violation;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// The invariant named when a replica or worker stopped itself.
const NAME: &str = "an assertion of the code under test";

thread_local! {
    /// While this thread runs a world: what the last panic said, and where.
    static LAST: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Runs `run`; a panic comes back as a violation.
pub(super) fn catch(run: impl FnOnce()) -> Result<(), Violation> {
    install();
    LAST.set(Some(None));
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    let said = LAST.take().flatten();
    result.map_err(|_| Violation {
        invariant: NAME,
        text: said.unwrap_or_else(|| "it said nothing".to_owned()),
    })
}

/// Once per process: keeps what is said by threads that run a world, and leaves all others alone.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let taken = LAST.with_borrow_mut(|last| last.as_mut().map(|said| *said = Some(info.to_string())));
            if taken.is_none() {
                before(info);
            }
        }));
    });
}
