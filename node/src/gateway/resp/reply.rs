//! Replies to bytes, in either version of the protocol.

use crate::kv::number::Text;
use bytes::{BufMut, BytesMut};

/// The version of the protocol a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    /// RESP2: every client starts with it.
    #[default]
    Two,
    /// RESP3: after `HELLO 3`.
    Three,
}

/// Writes replies.
pub(super) struct Reply<'a> {
    /// Where to.
    pub(super) out: &'a mut BytesMut,
    /// In which version.
    pub(super) protocol: Protocol,
}

impl Reply<'_> {
    /// `+text`
    pub(super) fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// `+OK`
    pub(super) fn ok(&mut self) {
        self.out.put_slice(b"+OK\r\n");
    }

    /// `-text`; the text starts with its code. Line breaks become spaces.
    pub(super) fn error(&mut self, text: impl AsRef<[u8]>) {
        self.out.put_u8(b'-');
        for &byte in text.as_ref() {
            self.out
                .put_u8(if matches!(byte, b'\r' | b'\n') { b' ' } else { byte });
        }
        self.out.put_slice(b"\r\n");
    }

    /// `:number`
    pub(super) fn integer(&mut self, number: i64) {
        self.line(b':', Text::of(number).as_bytes());
    }

    /// `$length` and the bytes.
    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len());
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
    }

    /// Text that RESP3 marks as readable (`=`), RESP2 does not.
    pub(super) fn verbatim(&mut self, text: &str) {
        match self.protocol {
            Protocol::Two => self.bulk(text.as_bytes()),
            Protocol::Three => {
                self.header(b'=', text.len() + 4);
                self.out.put_slice(b"txt:");
                self.out.put_slice(text.as_bytes());
                self.out.put_slice(b"\r\n");
            }
        }
    }

    /// No value.
    pub(super) fn null(&mut self) {
        self.out.put_slice(match self.protocol {
            Protocol::Two => b"$-1\r\n",
            Protocol::Three => b"_\r\n",
        });
    }

    /// No array.
    pub(super) fn null_array(&mut self) {
        self.out.put_slice(match self.protocol {
            Protocol::Two => b"*-1\r\n",
            Protocol::Three => b"_\r\n",
        });
    }

    /// An array of this many replies follows.
    pub(super) fn array(&mut self, length: usize) {
        self.header(b'*', length);
    }

    /// A set of this many replies follows.
    pub(super) fn set(&mut self, length: usize) {
        self.header(
            if self.protocol == Protocol::Three {
                b'~'
            } else {
                b'*'
            },
            length,
        );
    }

    /// A map of this many pairs follows.
    pub(super) fn map(&mut self, length: usize) {
        match self.protocol {
            Protocol::Two => self.header(b'*', length * 2),
            Protocol::Three => self.header(b'%', length),
        }
    }

    fn header(&mut self, kind: u8, length: usize) {
        let length = i64::try_from(length).expect("replies are limited");
        self.line(kind, Text::of(length).as_bytes());
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.put_u8(kind);
        self.out.put_slice(text);
        self.out.put_slice(b"\r\n");
    }
}
