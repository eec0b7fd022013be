//! What can go wrong, kept in two kinds: a broken rule of the channel ends the channel
//! ([`ChannelError`]), a broken rule inside a stream ends that stream only (a [`Reason`] that travels
//! in `CLOSE`). What the caller of the multiplexer did wrong has types of its own.
//!
//! The codes are the protocol's (PROTOCOL.md, "Reasons"); the texts are for people.

use alloc::format;
use alloc::string::String;
use core::fmt;

use super::frame::{FrameError, Kind};
use crate::id::StreamId;

/// A reason's number, as it travels. Numbers that are not named here are shown as they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Code(pub u32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal $word:literal;)*) => {
        impl Code {
            $( $(#[$doc])* pub const $name: Code = Code($number); )*

            /// Every named code with its word, in ascending order.
            pub const ALL: &'static [(Code, &'static str)] = &[$((Code($number), $word)),*];
        }
    };
}

codes! {
    /// Nothing went wrong: the end was wanted.
    DONE = 0 "done";
    /// A rule of the protocol was broken.
    PROTOCOL = 1 "protocol error";
    /// The preface's version is not spoken here.
    VERSION = 2 "unknown version";
    /// The preface requires, or an `OPEN` asks for, what is not offered here.
    UNSUPPORTED = 3 "unsupported";
    /// No right to the folder, or a token that is unknown, used, expired or another's.
    NOT_PERMITTED = 4 "not permitted";
    /// The folder cannot be served.
    FOLDER = 5 "folder not available";
    /// More streams than this end takes.
    TOO_MANY_STREAMS = 6 "too many streams";
    /// A message longer than this end takes.
    MESSAGE_TOO_LONG = 7 "message too long";
    /// The stream's bytes are not the conversation that they should be.
    NOT_9P = 8 "not 9P";
    /// What answers the stream failed or ended.
    BACKEND = 9 "backend failed";
    /// This end is about to leave and takes no new streams.
    GOING_AWAY = 10 "going away";
    /// The other end did not answer in time.
    TIMED_OUT = 11 "timed out";
    /// Ended by the person who owns this end.
    DISCONNECTED = 12 "disconnected";
    /// This end ran out of memory, descriptors or the like.
    RESOURCES = 13 "out of resources";
    /// A fault of the program at this end.
    INTERNAL = 14 "internal error";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::ALL.iter().find(|(code, _)| code == self) {
            Some((_, word)) => f.write_str(word),
            None => write!(f, "reason {}", self.0),
        }
    }
}

/// Why a stream or the channel ends, as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reason {
    /// For programs.
    pub code: Code,
    /// For people, at most [`Reason::MAX_TEXT`] bytes. A peer's text is hostile: escape it before it
    /// is shown on a terminal.
    pub text: String,
}

impl Reason {
    /// The most bytes of text that travel; more is cut off.
    pub const MAX_TEXT: usize = 1024;

    /// A reason.
    pub fn new(code: Code, text: impl Into<String>) -> Reason {
        Reason { code, text: text.into() }
    }

    /// A wanted end.
    pub fn done() -> Reason {
        Reason::new(Code::DONE, "")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text.as_str() {
            "" => self.code.fmt(f),
            text => write!(f, "{}: {text}", self.code),
        }
    }
}

/// Why the channel cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChannelError {
    /// Bytes that are no frame of this channel.
    #[error("the other end sent {0}")]
    Frame(#[from] FrameError),
    /// A frame that only the other side may send.
    #[error("the other end sent {0}, which only this end may send")]
    WrongSide(Kind),
    /// A frame for a stream that there is not.
    #[error("the other end sent {kind} for {stream}, which is not open")]
    NoStream {
        /// The frame.
        kind: Kind,
        /// The stream.
        stream: StreamId,
    },
    /// A frame that the stream's state does not permit.
    #[error("the other end sent {kind} for {stream} out of order")]
    OutOfOrder {
        /// The frame.
        kind: Kind,
        /// The stream.
        stream: StreamId,
    },
    /// An `OPEN` whose number is not above all before.
    #[error("the other end opened {stream} after stream {last}; numbers must ascend")]
    StreamNumber {
        /// The stream.
        stream: StreamId,
        /// The highest number before.
        last: u32,
    },
    /// More data than this end gave credit for.
    #[error("the other end sent {charge} bytes on {stream} with credit for {left}")]
    CreditExceeded {
        /// The stream, or [`StreamId::CHANNEL`].
        stream: StreamId,
        /// The frame's charge.
        charge: u32,
        /// The credit that was left.
        left: u64,
    },
    /// More credit than can be meant.
    #[error("the other end gave more credit on {0} than can be meant")]
    CreditOverflow(StreamId),
    /// The stream of bytes ended inside a frame.
    #[error("the other end stopped inside a frame")]
    CutFrame,
    /// No answer to a ping, nor anything else.
    #[error("the other end has not answered for {0} seconds")]
    Unresponsive(u64),
    /// The caller gave input before the peer's limits.
    #[error("input came before the other end's preface was read")]
    NotEstablished,
}

impl ChannelError {
    /// What is told the other end in `GOAWAY`.
    pub fn reason(&self) -> Reason {
        let code = match self {
            ChannelError::Unresponsive(_) => Code::TIMED_OUT,
            ChannelError::NotEstablished => Code::INTERNAL,
            _ => Code::PROTOCOL,
        };
        Reason::new(code, format!("{self}"))
    }
}

/// Why a stream cannot be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// One of the ends is leaving or the channel is broken.
    #[error("the channel takes no new streams: it is ending")]
    GoingAway,
    /// All stream numbers have been used.
    #[error("the channel has used all its stream numbers")]
    Exhausted,
    /// Only the client end opens streams.
    #[error("the server end does not open streams")]
    WrongSide,
}

/// Why bytes cannot be queued. [`SendError::NotOpen`] is no fault: the peer may have closed the
/// stream a moment ago, and the event that says so is on its way. The others are the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The stream is not open, or not any more.
    #[error("the stream is not open")]
    NotOpen,
    /// A message before this one lacks bytes.
    #[error("the message begun before lacks {0} bytes")]
    Unfinished(u32),
    /// More bytes than the message has.
    #[error("{extra} bytes more than the message lacks")]
    Overrun {
        /// The surplus.
        extra: usize,
    },
    /// A message of no bytes, which the channel does not carry.
    #[error("a message of no bytes")]
    Empty,
    /// More than the peer takes.
    #[error("a message of {total} bytes is longer than the {max} that the other end takes")]
    TooLong {
        /// The message's length.
        total: u32,
        /// The peer's limit.
        max: u32,
    },
}
