//! redb's pages as bytes: its file header, what a page must hash to, which pages and rows one names. Only what it takes to
//! verify them without redb, format 3 of its files; redb is pinned, and a test compares the two. No I/O.

use crate::codec::Malformed;
use crate::limits::PAGE_BYTES;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes of redb's file header: what is fixed, then two commit slots.
pub(crate) const HEADER_BYTES: usize = FIXED_BYTES + 2 * SLOT_BYTES;

const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
const FLAGS_AT: usize = 9;
const PAGE_BYTES_AT: usize = 12;
const STRETCH_HEADER_PAGES_AT: usize = 16;
const STRETCH_PAGES_AT: usize = 20;
const FIXED_BYTES: usize = 64;

const SLOT_BYTES: usize = 128;
const SLOT_CHECKSUM_AT: usize = SLOT_BYTES - 16;
const SLOT_FORMAT: u8 = 3;
const ROOTS_AT: usize = 8;
const ROOT_BYTES: usize = 32;

/// Which of the two commit slots rules.
const PRIMARY: u8 = 1;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;
const LEAF_FIXED: usize = 4;
const BRANCH_FIXED: usize = 8;
const CHECKSUM_BYTES: usize = 16;
const NUMBER_BYTES: usize = 8;
const OFFSET_BYTES: usize = 4;

/// No tree of redb is deeper: a chain of pages that is must be a circle.
pub(crate) const DEPTH_MAX: usize = 64;

/// Pages are at most 2^20 times the smallest.
const ORDER_MAX: u64 = 20;

/// Names a page, and says what it must hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRef {
    number: u64,
    checksum: u128,
}

/// The widths of a tree's keys and values; `None`: each has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Widths {
    key: Option<usize>,
    value: Option<usize>,
}

/// A tree of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// `None`: it is empty.
    pub(crate) root: Option<PageRef>,
    /// The rows it should have.
    pub(crate) rows: u64,
    pub(crate) widths: Widths,
}

/// What redb's file header says of the commit that rules, and of the stretches of pages that the file consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    stretch_header_pages: u64,
    stretch_pages: u64,
    /// Names and trees of the tables.
    pub(crate) tables: Tree,
    /// The same of redb's own tables.
    pub(crate) system: Tree,
}

/// Where a row's key and value lie in a page's bytes.
pub(crate) type RowPlace = (Range<usize>, Range<usize>);

/// A page, and where the last key that may be below it lies; `None`: it is the last one.
pub(crate) type Child = (PageRef, Option<Range<usize>>);

/// A verified page, taken apart.
#[derive(Debug)]
pub(crate) enum Node {
    /// In key order.
    Leaf(Vec<RowPlace>),
    /// In key order.
    Branch(Vec<Child>),
}

const TOO_SHORT: Malformed = Malformed("a page of redb ends too early");

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.copied().ok_or(TOO_SHORT)
}

fn number_u16(bytes: &[u8], at: usize) -> Result<usize, Malformed> {
    Ok(usize::from(u16::from_le_bytes(array(bytes, at)?)))
}

fn number_u32(bytes: &[u8], at: usize) -> Result<usize, Malformed> {
    usize::try_from(u32::from_le_bytes(array(bytes, at)?)).map_err(|_| TOO_SHORT)
}

impl Commit {
    /// Reads the file's first bytes.
    pub(crate) fn decode(header: &[u8; HEADER_BYTES]) -> Result<Commit, Malformed> {
        if !header.starts_with(MAGIC) || number_u32(header, PAGE_BYTES_AT)? as u64 != PAGE_BYTES {
            return Err(Malformed("redb's header does not begin like one"));
        }
        let slot = usize::from(header[FLAGS_AT] & PRIMARY);
        let (slots, _) = header[FIXED_BYTES..].as_chunks::<SLOT_BYTES>();
        let slot = &slots[slot];
        if slot[0] != SLOT_FORMAT {
            return Err(Malformed("redb's header has another format"));
        }
        let checksum = u128::from_le_bytes(array(slot, SLOT_CHECKSUM_AT)?);
        if checksum != xxh3_128(&slot[..SLOT_CHECKSUM_AT]) {
            return Err(Malformed("the checksum of redb's header does not match"));
        }
        Ok(Commit {
            stretch_header_pages: number_u32(header, STRETCH_HEADER_PAGES_AT)? as u64,
            stretch_pages: number_u32(header, STRETCH_PAGES_AT)? as u64,
            tables: Tree::decode(slot[1], slot, ROOTS_AT)?,
            system: Tree::decode(slot[2], slot, ROOTS_AT + ROOT_BYTES)?,
        })
    }

    /// Where a page lies in redb's part.
    pub(crate) fn place(&self, page: PageRef) -> Result<Range<u64>, Malformed> {
        let order = page.number >> 59;
        if order > ORDER_MAX {
            return Err(Malformed("a page of redb that can not be so large"));
        }
        let index = page.number & (0xf_ffff >> order);
        let stretch = page.number >> 20 & 0xf_ffff;
        let bytes = PAGE_BYTES << order;
        let stretch_bytes = (self.stretch_header_pages + self.stretch_pages) * PAGE_BYTES;
        let start =
            PAGE_BYTES + stretch * stretch_bytes + self.stretch_header_pages * PAGE_BYTES + index * bytes;
        Ok(start..start + bytes)
    }
}

impl Tree {
    /// A tree's root as headers and rows of the table of tables have it; keys and values are of any width.
    fn decode(is_there: u8, bytes: &[u8], at: usize) -> Result<Tree, Malformed> {
        if is_there == 0 {
            return Ok(Tree::default());
        }
        let root = PageRef {
            number: u64::from_le_bytes(array(bytes, at)?),
            checksum: u128::from_le_bytes(array(bytes, at + NUMBER_BYTES)?),
        };
        Ok(Tree {
            root: Some(root),
            rows: u64::from_le_bytes(array(bytes, at + NUMBER_BYTES + CHECKSUM_BYTES)?),
            widths: Widths::default(),
        })
    }

    /// The tree that a row of the table of tables describes.
    pub(crate) fn of_row(row: &[u8]) -> Result<Tree, Malformed> {
        const ROWS_AT: usize = 1;
        const ROOT_AT: usize = ROWS_AT + 8;
        const KEY_AT: usize = ROOT_AT + 1 + ROOT_BYTES;
        const VALUE_AT: usize = KEY_AT + 1 + OFFSET_BYTES;
        let width = |at: usize| match array::<1>(row, at)? {
            [0] => Ok(None),
            _ => number_u32(row, at + 1).map(Some),
        };
        let [is_there] = array(row, ROOT_AT)?;
        Ok(Tree {
            rows: u64::from_le_bytes(array(row, ROWS_AT)?),
            widths: Widths {
                key: width(KEY_AT)?,
                value: width(VALUE_AT)?,
            },
            ..Tree::decode(is_there, row, ROOT_AT + 1)?
        })
    }
}

/// Compares a page with its checksum and takes it apart.
pub(crate) fn verify(bytes: &[u8], page: PageRef, widths: Widths) -> Result<Node, Malformed> {
    let count = number_u16(bytes, 2)?;
    let shape = Shape { bytes, count, widths };
    let end = match (bytes[0], count) {
        (LEAF, 1..) => shape.value_end(count - 1)?,
        (BRANCH, 1..) => shape.separator_end(count - 1)?,
        _ => return Err(Malformed("a page of redb is neither leaf nor branch")),
    };
    if xxh3_128(bytes.get(..end).ok_or(TOO_SHORT)?) != page.checksum {
        return Err(Malformed("a page of redb does not match its checksum"));
    }
    match bytes[0] {
        LEAF => shape.rows().map(Node::Leaf),
        _ => shape.children().map(Node::Branch),
    }
}

/// Where things lie in a page. A leaf: the ends of its keys, the ends of its values, keys, values. A branch: checksums of
/// its children, their numbers, the ends of the keys between them, those keys. Ends of a fixed width are left out.
struct Shape<'a> {
    bytes: &'a [u8],
    /// Rows of a leaf; of a branch, keys between children.
    count: usize,
    widths: Widths,
}

impl Shape<'_> {
    /// Bytes of a leaf before its first key.
    fn keys_at(&self) -> usize {
        let offsets = usize::from(self.widths.key.is_none()) + usize::from(self.widths.value.is_none());
        LEAF_FIXED + offsets * OFFSET_BYTES * self.count
    }

    fn key_end(&self, row: usize) -> Result<usize, Malformed> {
        match self.widths.key {
            Some(width) => fixed_end(self.keys_at(), width, row),
            None => number_u32(self.bytes, LEAF_FIXED + OFFSET_BYTES * row),
        }
    }

    fn value_end(&self, row: usize) -> Result<usize, Malformed> {
        let keys = usize::from(self.widths.key.is_none()) * self.count;
        match self.widths.value {
            Some(width) => fixed_end(self.key_end(self.count - 1)?, width, row),
            None => number_u32(self.bytes, LEAF_FIXED + OFFSET_BYTES * (keys + row)),
        }
    }

    fn rows(&self) -> Result<Vec<RowPlace>, Malformed> {
        let mut rows = Vec::with_capacity(self.count);
        let (mut key_at, mut value_at) = (self.keys_at(), self.key_end(self.count - 1)?);
        for row in 0..self.count {
            let (key_end, value_end) = (self.key_end(row)?, self.value_end(row)?);
            rows.push((self.part(key_at..key_end)?, self.part(value_at..value_end)?));
            (key_at, value_at) = (key_end, value_end);
        }
        Ok(rows)
    }

    /// Bytes of a branch before the ends of its keys.
    fn separator_ends_at(&self) -> usize {
        BRANCH_FIXED + (CHECKSUM_BYTES + NUMBER_BYTES) * (self.count + 1)
    }

    fn separators_at(&self) -> usize {
        let offsets = usize::from(self.widths.key.is_none());
        self.separator_ends_at() + offsets * OFFSET_BYTES * self.count
    }

    fn separator_end(&self, key: usize) -> Result<usize, Malformed> {
        match self.widths.key {
            Some(width) => fixed_end(self.separators_at(), width, key),
            None => number_u32(self.bytes, self.separator_ends_at() + OFFSET_BYTES * key),
        }
    }

    fn children(&self) -> Result<Vec<Child>, Malformed> {
        let mut children = Vec::with_capacity(self.count + 1);
        let mut key_at = self.separators_at();
        for child in 0..=self.count {
            let numbers_at = BRANCH_FIXED + CHECKSUM_BYTES * (self.count + 1);
            let page = PageRef {
                checksum: u128::from_le_bytes(array(self.bytes, BRANCH_FIXED + CHECKSUM_BYTES * child)?),
                number: u64::from_le_bytes(array(self.bytes, numbers_at + NUMBER_BYTES * child)?),
            };
            let key = match child < self.count {
                true => {
                    let end = self.separator_end(child)?;
                    let key = self.part(key_at..end)?;
                    key_at = end;
                    Some(key)
                }
                false => None,
            };
            children.push((page, key));
        }
        Ok(children)
    }

    /// A range of this page's bytes.
    fn part(&self, range: Range<usize>) -> Result<Range<usize>, Malformed> {
        self.bytes.get(range.clone()).map(|_| range).ok_or(TOO_SHORT)
    }
}

fn fixed_end(start: usize, width: usize, index: usize) -> Result<usize, Malformed> {
    let end = width
        .checked_mul(index + 1)
        .and_then(|bytes| bytes.checked_add(start));
    end.ok_or(TOO_SHORT)
}
