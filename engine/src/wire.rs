//! Questions, answers and notices between nodes, as bytes.
//!
//! What must hold:
//! - Every head begins with its format version and what it is; a variant that this build does not know has a name of its own
//!   ([`BadWire::Unknown`]), so that its asker can be told.
//! - Decoding takes any bytes: it never panics, and allocates in proportion to what is there.
//! - Bodies travel as payload: blocks of chunks as they lie in memory, small ones copied; everything else is in the head. Records of the index travel in
//!   their own formats ([`crate::manifest`]).
//! - What a newer build adds goes into new variants, or into a new format version of a head, never into these.
//!
//! `docs/formats/wire.md` draws the bytes. Integers are little-endian; a text, a record or raw bytes begin with their length
//! (u32), a list with its count (u32), an optional value with 0 or 1.

mod answer;
mod facts;
mod fields;
mod request;
#[cfg(test)]
mod tests;

use crate::manifest::BadRecord;
use crate::message::{Answer, Request};
use buckets_meta::{GroupMessage, encode_list};
use buckets_peer::Message;
use bytes::{BufMut, BytesMut};
use fields::{Blocks, Fields};

/// The format of heads that this build writes and reads.
const VERSION: u8 = 1;

/// What a head is.
mod kind {
    pub(super) const REQUEST: u8 = 1;
    pub(super) const ANSWER: u8 = 2;
    pub(super) const NOTICE: u8 = 3;
}

/// A message that wants no answer.
#[derive(Debug)]
pub enum Notice {
    /// Between Raft replicas: what one core has for those of another at one moment, in order.
    Groups(Vec<GroupMessage>),
}

/// Why bytes are no message of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWire {
    /// Of another format version.
    #[error("format version {0} of a message, this build reads {VERSION}")]
    Version(u8),
    /// A question where an answer should be, or the like.
    #[error("a message of kind {0} out of place")]
    Kind(u8),
    /// A variant that this build does not have: the peer is newer.
    #[error("{what} {number} is not known to this build")]
    Unknown {
        /// The enum.
        what: &'static str,
        /// The variant's number.
        number: u8,
    },
    /// It ends within a field.
    #[error("a message ends early")]
    Short,
    /// It goes on behind its end.
    #[error("a message goes on behind its end")]
    Long,
    /// A field has a value that it cannot have.
    #[error("{0} is out of its range")]
    Range(&'static str),
    /// A record in it cannot be read.
    #[error(transparent)]
    Record(#[from] BadRecord),
    /// The payload is not what the head says.
    #[error("the payload is not what its head says")]
    Payload,
}

/// A question for another node.
pub fn encode_request(request: &Request) -> Message {
    let (mut head, mut payload) = (begin(kind::REQUEST), Vec::new());
    request::put(request, &mut head, &mut payload);
    Message { head: head.freeze(), payload }
}

/// A question of another node.
pub fn decode_request(message: Message) -> Result<Request, BadWire> {
    decode(message, kind::REQUEST, request::get)
}

/// An answer for another node.
pub fn encode_answer(answer: &Answer) -> Message {
    let (mut head, mut payload) = (begin(kind::ANSWER), Vec::new());
    answer::put(answer, &mut head, &mut payload);
    Message { head: head.freeze(), payload }
}

/// An answer of another node.
pub fn decode_answer(message: Message) -> Result<Answer, BadWire> {
    decode(message, kind::ANSWER, answer::get)
}

/// A notice for another node.
pub fn encode_notice(notice: &Notice) -> Message {
    let Notice::Groups(messages) = notice;
    let mut head = begin(kind::NOTICE);
    head.put_u8(1);
    encode_list(messages, &mut head);
    Message::new(head.freeze())
}

/// A notice of another node.
pub fn decode_notice(message: Message) -> Result<Notice, BadWire> {
    decode(message, kind::NOTICE, |fields, _| match fields.u8()? {
        1 => Ok(Notice::Groups(fields.messages()?)),
        number => Err(BadWire::Unknown { what: "notice", number }),
    })
}

fn begin(kind: u8) -> BytesMut {
    let mut head = BytesMut::with_capacity(128);
    head.put_u8(VERSION);
    head.put_u8(kind);
    head
}

fn decode<T>(
    message: Message,
    expected: u8,
    get: impl FnOnce(&mut Fields, &mut Blocks) -> Result<T, BadWire>,
) -> Result<T, BadWire> {
    let Message { head, payload } = message;
    let (mut fields, mut blocks) = (Fields::new(head), Blocks::new(payload));
    match fields.u8()? {
        VERSION => {}
        other => return Err(BadWire::Version(other)),
    }
    match fields.u8()? {
        kind if kind == expected => {}
        other => return Err(BadWire::Kind(other)),
    }
    let value = get(&mut fields, &mut blocks)?;
    fields.end()?;
    blocks.end()?;
    Ok(value)
}
