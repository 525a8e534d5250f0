//! Spans of user keys, and which slot each span of a group's keys lives in. Bytes only: whose they are, and when
//! they may go, is `slots.rs`'s business.

use crate::codec::{Malformed, Reader, put_bytes, put_varint};
use crate::slot::Slot;
use bytes::Bytes;
use std::collections::BTreeMap;

/// User keys from `start` up to, not including, `end`; `None`: to the last key there can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: Bytes,
    pub(crate) end: Option<Bytes>,
}

impl Span {
    /// All keys.
    pub(crate) fn whole() -> Span {
        Span {
            start: Bytes::new(),
            end: None,
        }
    }

    /// `None`: no key lies between.
    pub(crate) fn between(start: Bytes, end: Option<Bytes>) -> Option<Span> {
        let is_empty = end.as_ref().is_some_and(|end| *end <= start);
        (!is_empty).then_some(Span { start, end })
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && self.is_before_end(key)
    }

    fn is_before_end(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| key < end)
    }

    /// The keys in both.
    pub(crate) fn overlap(&self, other: &Span) -> Option<Span> {
        let start = self.start.clone().max(other.start.clone());
        let end = match (&self.end, &other.end) {
            (Some(one), Some(two)) => Some(one.clone().min(two.clone())),
            (one, two) => one.clone().or_else(|| two.clone()),
        };
        Span::between(start, end)
    }

    /// The keys that are not in `other`, in order.
    pub(crate) fn without(&self, other: &Span) -> Vec<Span> {
        let Some(overlap) = self.overlap(other) else {
            return vec![self.clone()];
        };
        let before = Span::between(self.start.clone(), Some(overlap.start));
        let after = overlap.end.and_then(|end| Span::between(end, self.end.clone()));
        before.into_iter().chain(after).collect()
    }

    /// The stored key in front of every key of this span in a slot.
    pub(crate) fn lower(&self, slot: Slot) -> Vec<u8> {
        slot.key(&self.start)
    }

    /// The stored key behind every key of this span in a slot.
    pub(crate) fn upper(&self, slot: Slot) -> Vec<u8> {
        self.end.as_ref().map_or_else(|| slot.end(), |end| slot.key(end))
    }
}

/// A span of one slot: what a group owns, or what nobody does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) span: Span,
    pub(crate) slot: Slot,
}

impl Piece {
    /// What is left of these pieces when nothing of `taken` is.
    pub(crate) fn subtract<'a>(pieces: &[Piece], taken: impl IntoIterator<Item = &'a Piece>) -> Vec<Piece> {
        let mut by_slot: BTreeMap<Slot, Vec<&Span>> = BTreeMap::new();
        for piece in pieces {
            by_slot.entry(piece.slot).or_default();
        }
        for other in taken {
            if let Some(spans) = by_slot.get_mut(&other.slot) {
                spans.push(&other.span);
            }
        }
        pieces
            .iter()
            .flat_map(|piece| piece.without(&by_slot[&piece.slot]))
            .collect()
    }

    fn without(&self, taken: &[&Span]) -> Vec<Piece> {
        let slot = self.slot;
        let mut spans = vec![self.span.clone()];
        for other in taken {
            spans = spans.iter().flat_map(|span| span.without(other)).collect();
        }
        spans.into_iter().map(|span| Piece { span, slot }).collect()
    }
}

/// Where a group's keys live: disjoint pieces in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pieces: Vec<Piece>,
}

impl Places {
    /// All keys in one slot.
    pub(crate) fn whole(slot: Slot) -> Places {
        let span = Span::whole();
        Places {
            pieces: vec![Piece { span, slot }],
        }
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The slot of a key; `None`: the key is not this group's.
    pub(crate) fn slot_of(&self, key: &[u8]) -> Option<Slot> {
        let behind = self.pieces.partition_point(|piece| piece.span.start <= key);
        let piece = &self.pieces[behind.checked_sub(1)?];
        piece.span.is_before_end(key).then_some(piece.slot)
    }

    /// The parts of these pieces inside a span, in key order.
    pub(crate) fn within(&self, span: &Span) -> Vec<Piece> {
        let overlap = |piece: &Piece| {
            let slot = piece.slot;
            piece.span.overlap(span).map(|span| Piece { span, slot })
        };
        self.pieces.iter().filter_map(overlap).collect()
    }

    /// Everything but a span.
    pub(crate) fn without(&self, span: &Span) -> Places {
        let left = self.pieces.iter().flat_map(|piece| {
            let spans = piece.span.without(span).into_iter();
            spans.map(|span| Piece {
                span,
                slot: piece.slot,
            })
        });
        Places {
            pieces: left.collect(),
        }
    }

    /// A group split off this one: the keys in `span` stay where they are, all others are new, in `own`.
    pub(crate) fn child(&self, span: &Span, own: Slot) -> Places {
        let mut pieces = Places::whole(own).without(span).pieces;
        pieces.extend(self.within(span));
        pieces.sort_by(|one, two| one.span.start.cmp(&two.span.start));
        Places { pieces }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.pieces.len() as u64);
        for Piece { span, slot } in &self.pieces {
            put_bytes(out, &span.start);
            match &span.end {
                None => out.push(0),
                Some(end) => {
                    out.push(1);
                    put_bytes(out, end);
                }
            }
            slot.put(out);
        }
    }

    /// Reads what `put` wrote.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Places, Malformed> {
        let mut places = Places::default();
        for _ in 0..reader.count()? {
            let piece = read_piece(reader)?;
            let before = places.pieces.last().map(|last| last.span.end.as_ref());
            let is_behind = match before {
                None => true,
                Some(None) => false,
                Some(Some(end)) => *end <= piece.span.start,
            };
            if !is_behind {
                return Err(Malformed("spans that overlap"));
            }
            places.pieces.push(piece);
        }
        Ok(places)
    }

    /// An upper bound of what `put` appends.
    pub(crate) fn bytes_bound(&self) -> usize {
        const FIXED: usize = 64;
        let bytes =
            |piece: &Piece| FIXED + piece.span.start.len() + piece.span.end.as_ref().map_or(0, Bytes::len);
        FIXED + self.pieces.iter().map(bytes).sum::<usize>()
    }
}

fn read_piece(reader: &mut Reader<'_>) -> Result<Piece, Malformed> {
    let start = reader.bytes()?;
    let end = match reader.byte()? {
        0 => None,
        1 => Some(reader.bytes()?),
        _ => return Err(Malformed("a span's end that is neither absent nor present")),
    };
    let slot = Slot::read(reader)?;
    let span = Span::between(start, end).ok_or(Malformed("an empty span"))?;
    Ok(Piece { span, slot })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Slot = Slot {
        incarnation: 1,
        counter: 0,
    };
    const TWO: Slot = Slot {
        incarnation: 1,
        counter: 1,
    };

    fn span(start: &'static str, end: Option<&'static str>) -> Span {
        Span::between(start.into(), end.map(Bytes::from)).unwrap()
    }

    #[test]
    fn a_split_shares_the_slot_and_nothing_else() {
        let parent = Places::whole(ONE);
        let moved = span("m", Some("t"));
        let child = parent.child(&moved, TWO);
        let parent = parent.without(&moved);
        for (key, of_parent, of_child) in [
            ("", Some(ONE), Some(TWO)),
            ("lzz", Some(ONE), Some(TWO)),
            ("m", None, Some(ONE)),
            ("szz", None, Some(ONE)),
            ("t", Some(ONE), Some(TWO)),
        ] {
            assert_eq!(parent.slot_of(key.as_bytes()), of_parent, "{key}");
            assert_eq!(child.slot_of(key.as_bytes()), of_child, "{key}");
        }
        let mut bytes = Vec::new();
        child.put(&mut bytes);
        assert!(bytes.len() <= child.bytes_bound());
        assert_eq!(Places::read(&mut Reader::new(&bytes)), Ok(child));
    }

    #[test]
    fn what_is_left_is_what_nobody_took() {
        let piece = |span, slot| Piece { span, slot };
        let left = Piece::subtract(
            &[piece(Span::whole(), ONE)],
            &[
                piece(span("b", Some("d")), ONE),
                piece(Span::whole(), TWO),
                piece(span("c", Some("e")), ONE),
                piece(span("x", None), ONE),
            ],
        );
        let expected = [span("", Some("b")), span("e", Some("x"))];
        assert_eq!(left, expected.map(|span| piece(span, ONE)));
    }
}
