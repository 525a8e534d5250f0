//! Walks over redb's rows that come to an end. redb verifies no page that it reads: on a damaged one a walk may leave
//! the range it was asked for, or go back, and then round and round. Sound rows ascend; nothing else is believed.

use crate::codec::Malformed;

/// What the next row of a walk must be behind.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    /// The last key; before the first one, where the range begins.
    last: Vec<u8>,
    has_begun: bool,
    end: Option<&'a [u8]>,
}

impl<'a> Order<'a> {
    /// Of a walk over `[start, end)`; `None`: to the end of the table.
    pub(crate) fn within(start: &[u8], end: Option<&'a [u8]>) -> Order<'a> {
        Order {
            last: start.to_vec(),
            has_begun: false,
            end,
        }
    }

    /// Of a walk over a whole table.
    pub(crate) fn of_all() -> Order<'a> {
        Order::within(&[], None)
    }

    /// Passes the walk's next key, which must lie in the range and behind the one before.
    pub(crate) fn pass(&mut self, key: &[u8]) -> Result<(), Malformed> {
        let is_behind = match self.has_begun {
            true => self.last.as_slice() < key,
            false => self.last.as_slice() <= key,
        };
        if !is_behind || self.end.is_some_and(|end| end <= key) {
            return Err(Malformed("rows out of order"));
        }
        self.has_begun = true;
        self.last.clear();
        self.last.extend_from_slice(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ascends_within_the_range_passes() {
        let mut order = Order::within(b"b", Some(b"e"));
        assert!(order.pass(b"a").is_err(), "in front of the range");
        assert_eq!(order.pass(b"b"), Ok(()));
        assert!(order.pass(b"b").is_err(), "twice");
        assert_eq!(order.pass(b"d"), Ok(()));
        assert!(order.pass(b"c").is_err(), "back");
        assert!(order.pass(b"e").is_err(), "behind the range");
    }

    #[test]
    fn a_whole_table_begins_anywhere() {
        let mut order = Order::of_all();
        assert_eq!((order.pass(b""), order.pass(b"x")), (Ok(()), Ok(())));
        assert!(order.pass(b"").is_err());
    }
}
