//! The prefaces: what each end says first, before any frame.
//!
//! The client end's says what the call is for; the server end answers once it has read it. They stand
//! apart from [`Connection`](super::Connection), because the server end may have to ask another
//! process before it can answer, and because after a grant no connection follows at all.
//! [`PrefaceReader`] takes bytes in any cut, skips what a login shell printed before the server's
//! preface, and gives back what follows it.
//!
//! Up to the version the layout is the same in all versions, and in the server's preface up to the
//! status: so two ends that do not understand each other can still say so in words.

use alloc::vec::Vec;
use core::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::config::{LimitError, Limits};
use super::error::{Code, Reason};
use super::wire::{Fields, put_counted, put_reason};

/// How every preface begins. No script prints it: it is not text in any encoding that a terminal
/// shows, and its carriage return, line feed and zero show what a channel that "corrects" text did to
/// it. Its first byte does not occur in it again, so that a search never has to go back.
pub const MAGIC: [u8; 8] = *b"\xffQSF\0\r\n\xfe";

/// The version that is spoken here.
pub const VERSION: u16 = 1;

/// The longest preface of any version, in bytes.
pub const MAX_SIZE: u32 = 4096;

/// The most bytes before the server's preface.
pub const MAX_NOISE: usize = 64 << 10;

/// The most bytes of a qube's name; Xen's limit is 31, qrexec's for targets 63.
pub const MAX_NAME: usize = 64;

/// magic[8] size[4] version[2].
const FIXED: usize = 14;

/// The noise that is kept for the error's reader.
const KEPT_NOISE: usize = 256;

/// Why bytes are not the other end's preface.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrefaceError {
    /// More noise than is skipped, or any where there can be none.
    #[error("no preface in its first {0} bytes")]
    NoMagic(usize),
    /// A size that no preface has.
    #[error("its preface says {0} bytes, which none has")]
    Size(u32),
    /// Another version.
    #[error("it speaks version {0} of the channel protocol, this end version {VERSION}")]
    Version(u16),
    /// A field reaches beyond the end, or has a value that it cannot have.
    #[error("its preface has a bad {0}")]
    Field(&'static str),
    /// A limit out of range.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Capabilities required that are not offered here.
    #[error("it requires capabilities {0:#x} that this end does not have")]
    Capabilities(u32),
    /// The server made a grant of a call that asked for a channel.
    #[error("it answers a call for a channel with a grant")]
    Role,
    /// The stream ended first. `usize` bytes of noise had come.
    #[error("it ended before its preface, after {0} bytes")]
    Ended(usize),
}

impl PrefaceError {
    /// What the other end is told.
    pub fn reason(&self) -> Reason {
        let (code, text) = match self {
            PrefaceError::Version(theirs) => (
                Code::VERSION,
                alloc::format!(
                    "this end speaks version {VERSION} of the channel protocol, the other {theirs}"
                ),
            ),
            PrefaceError::Capabilities(bits) => {
                (Code::UNSUPPORTED, alloc::format!("capabilities {bits:#x} are not known here"))
            }
            other => (Code::PROTOCOL, alloc::format!("{other}")),
        };
        Reason { code, text }
    }
}

/// What may be agreed on besides the version, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// What the other end must have, or refuse.
    pub required: u32,
    /// What this end has.
    pub offered: u32,
}

impl Capabilities {
    /// `HINT` and `INVALIDATE` frames. Not offered yet.
    pub const HINTS: u32 = 1;
    /// What this version has.
    pub const OURS: Capabilities = Capabilities { required: 0, offered: 0 };

    /// Checks that we have what the peer requires, and the peer what we require.
    pub fn agree(self, ours: Capabilities) -> Result<(), PrefaceError> {
        match (self.required & !ours.offered) | (ours.required & !self.offered) {
            0 => Ok(()),
            missing => Err(PrefaceError::Capabilities(missing)),
        }
    }
}

/// A channel's name: random, chosen by its server end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Nonce(pub [u8; 16]);

/// A permission, used once, in the `OPEN` of the channel that it is for. Secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token(pub [u8; 16]);

impl core::fmt::Debug for Token {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a call is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// To become the pair's channel.
    Channel,
    /// To get a permission for the channel of this name. Becomes the channel where that is no more.
    Grant(Nonce),
}

/// The client end's preface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientHello {
    /// What it has and requires.
    pub capabilities: Capabilities,
    /// Its limits.
    pub limits: Limits,
    /// What the call is for.
    pub role: Role,
}

/// What the server end made of the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// Frames follow.
    Channel,
    /// The permission; nothing follows.
    Grant(Token),
}

/// The server end's preface where it did not refuse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerHello {
    /// What it has and requires.
    pub capabilities: Capabilities,
    /// Its limits.
    pub limits: Limits,
    /// What it made of the call.
    pub taken: Taken,
    /// The server qube's own name, at most [`MAX_NAME`] bytes, unchecked: `@default` may have led
    /// anywhere.
    pub name: Vec<u8>,
    /// The channel's name: this one's, or the one that the permission is for.
    pub nonce: Nonce,
}

impl ServerHello {
    /// Checks the answer against what was asked.
    pub fn check(&self, asked: &ClientHello) -> Result<(), PrefaceError> {
        self.capabilities.agree(asked.capabilities)?;
        match (self.taken, asked.role) {
            (Taken::Grant(_), Role::Channel) => Err(PrefaceError::Role),
            _ => Ok(()),
        }
    }
}

/// The server end's preface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Taken.
    Taken(ServerHello),
    /// Refused; nothing follows.
    Refused(Reason),
}

/// One of the two prefaces. Implemented here only.
pub trait Preface: Sized {
    /// The most bytes that may come before it.
    const NOISE: usize;

    /// The preface's bytes.
    fn encode(&self) -> Bytes;

    /// Takes what follows the size apart.
    #[doc(hidden)]
    fn decode(fields: &[u8]) -> Result<Self, PrefaceError>;
}

fn start() -> BytesMut {
    let mut to = BytesMut::with_capacity(160);
    to.put_slice(&MAGIC);
    to.put_u32_le(0);
    to.put_u16_le(VERSION);
    to
}

fn finish(mut to: BytesMut) -> Bytes {
    let size = to.len() as u32;
    to[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&size.to_le_bytes());
    to.freeze()
}

fn put_terms(to: &mut BytesMut, capabilities: Capabilities, limits: &Limits) {
    to.put_u32_le(capabilities.required);
    to.put_u32_le(capabilities.offered);
    limits.put(to);
}

fn take_terms(from: &mut Fields<'_>) -> Result<(Capabilities, Limits), PrefaceError> {
    let short = PrefaceError::Field("length");
    let required = from.u32().ok_or(short.clone())?;
    let offered = from.u32().ok_or(short.clone())?;
    let limits = Limits::take(from).ok_or(short)??;
    Ok((Capabilities { required, offered }, limits))
}

fn take_version(from: &mut Fields<'_>) -> Result<u16, PrefaceError> {
    from.u16().ok_or(PrefaceError::Field("length"))
}

impl Preface for ClientHello {
    /// Nothing runs before the client end writes.
    const NOISE: usize = 0;

    fn encode(&self) -> Bytes {
        let mut to = start();
        put_terms(&mut to, self.capabilities, &self.limits);
        let (role, nonce) = match self.role {
            Role::Channel => (0, [0; 16]),
            Role::Grant(nonce) => (1, nonce.0),
        };
        to.put_u8(role);
        to.put_slice(&nonce);
        finish(to)
    }

    fn decode(fields: &[u8]) -> Result<Self, PrefaceError> {
        let mut from = Fields(fields);
        let version = take_version(&mut from)?;
        if version != VERSION {
            return Err(PrefaceError::Version(version));
        }
        let (capabilities, limits) = take_terms(&mut from)?;
        let role = from.u8().ok_or(PrefaceError::Field("role"))?;
        let nonce = from.array().ok_or(PrefaceError::Field("nonce"))?;
        let role = match role {
            0 => Role::Channel,
            1 => Role::Grant(Nonce(nonce)),
            _ => return Err(PrefaceError::Field("role")),
        };
        Ok(ClientHello { capabilities, limits, role })
    }
}

impl Preface for Answer {
    const NOISE: usize = MAX_NOISE;

    fn encode(&self) -> Bytes {
        let mut to = start();
        match self {
            Answer::Refused(reason) => {
                // A status of 0 is no refusal.
                let code = if reason.code == Code::DONE { Code::INTERNAL } else { reason.code };
                put_reason(&mut to, &Reason { code, text: reason.text.clone() });
            }
            Answer::Taken(hello) => {
                put_reason(&mut to, &Reason::done());
                put_terms(&mut to, hello.capabilities, &hello.limits);
                let (taken, token) = match hello.taken {
                    Taken::Channel => (0, [0; 16]),
                    Taken::Grant(token) => (1, token.0),
                };
                to.put_u8(taken);
                put_counted(&mut to, &hello.name, MAX_NAME);
                to.put_slice(&hello.nonce.0);
                to.put_slice(&token);
            }
        }
        finish(to)
    }

    fn decode(fields: &[u8]) -> Result<Self, PrefaceError> {
        let mut from = Fields(fields);
        let version = take_version(&mut from)?;
        // The status comes first: another version's refusal says more than its number does.
        let status = from.reason();
        if let Some(reason) = &status {
            if reason.code != Code::DONE {
                return Ok(Answer::Refused(reason.clone()));
            }
        }
        if version != VERSION {
            return Err(PrefaceError::Version(version));
        }
        status.ok_or(PrefaceError::Field("status"))?;
        let (capabilities, limits) = take_terms(&mut from)?;
        let taken = from.u8().ok_or(PrefaceError::Field("role"))?;
        let name = from.counted(MAX_NAME).ok_or(PrefaceError::Field("name"))?.to_vec();
        let nonce = Nonce(from.array().ok_or(PrefaceError::Field("nonce"))?);
        let token = from.array().ok_or(PrefaceError::Field("token"))?;
        let taken = match taken {
            0 => Taken::Channel,
            1 => Taken::Grant(Token(token)),
            _ => return Err(PrefaceError::Field("role")),
        };
        Ok(Answer::Taken(ServerHello { capabilities, limits, taken, name, nonce }))
    }
}

/// Takes bytes in any cut until the other end's preface is whole.
#[derive(Debug)]
pub struct PrefaceReader<P> {
    /// The preface so far, magic included.
    held: Vec<u8>,
    seen: usize,
    noise: Vec<u8>,
    what: PhantomData<P>,
}

impl<P: Preface> Default for PrefaceReader<P> {
    fn default() -> Self {
        PrefaceReader { held: Vec::new(), seen: 0, noise: Vec::new(), what: PhantomData }
    }
}

impl<P: Preface> PrefaceReader<P> {
    /// Takes bytes in. Gives the preface once it is whole, with the bytes that follow it in this
    /// input; after that, and after an error, the reader is of no more use.
    pub fn feed(&mut self, mut input: Bytes) -> Result<Option<(P, Bytes)>, PrefaceError> {
        self.seek(&mut input)?;
        if !self.fill(&mut input, FIXED) {
            return Ok(None);
        }
        let mut size = [0; 4];
        size.copy_from_slice(&self.held[MAGIC.len()..MAGIC.len() + 4]);
        let size = u32::from_le_bytes(size);
        if (size as usize) < FIXED || size > MAX_SIZE {
            return Err(PrefaceError::Size(size));
        }
        if !self.fill(&mut input, size as usize) {
            return Ok(None);
        }
        P::decode(&self.held[MAGIC.len() + 4..]).map(|preface| Some((preface, input)))
    }

    /// The input has ended: why there is no preface.
    pub fn ended(&self) -> PrefaceError {
        PrefaceError::Ended(self.seen + self.held.len())
    }

    /// Whether any byte has come, noise included.
    pub fn has_begun(&self) -> bool {
        self.seen + self.held.len() > 0
    }

    /// The beginning of what came before the preface, at most 256 bytes: where no preface follows it
    /// is often the error message of a shell. Hostile: escape it before it is shown.
    pub fn noise(&self) -> &[u8] {
        &self.noise
    }

    /// Skips noise until `held` begins with the magic, or the input is used up.
    fn seek(&mut self, input: &mut Bytes) -> Result<(), PrefaceError> {
        while self.held.len() < MAGIC.len() && input.has_remaining() {
            let byte = input.get_u8();
            if byte != MAGIC[self.held.len()] {
                // The magic's first byte is not in it again: nothing held can begin it.
                self.discard();
            }
            self.held.push(byte);
            if self.held[0] != MAGIC[0] {
                self.discard();
            }
            if self.seen > P::NOISE {
                return Err(PrefaceError::NoMagic(self.seen));
            }
        }
        Ok(())
    }

    /// What is held is noise.
    fn discard(&mut self) {
        let room = KEPT_NOISE.saturating_sub(self.noise.len()).min(self.held.len());
        self.noise.extend_from_slice(&self.held[..room]);
        self.seen += self.held.len();
        self.held.clear();
    }

    /// Takes from the input until `want` bytes are held; whether they are.
    fn fill(&mut self, input: &mut Bytes, want: usize) -> bool {
        let missing = want.saturating_sub(self.held.len()).min(input.len());
        self.held.extend_from_slice(&input.split_to(missing));
        self.held.len() >= want
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::Config;

    fn hello(role: Role) -> ClientHello {
        ClientHello { capabilities: Capabilities::OURS, limits: Config::default().limits(), role }
    }

    fn answer() -> Answer {
        Answer::Taken(ServerHello {
            capabilities: Capabilities::OURS,
            limits: Config::default().limits(),
            taken: Taken::Grant(Token([3; 16])),
            name: b"work".to_vec(),
            nonce: Nonce([9; 16]),
        })
    }

    #[test]
    fn every_cut_gives_the_same_preface_and_what_follows() {
        let client = hello(Role::Grant(Nonce([1; 16])));
        let noise = b"Welcome!\xffQS\xff\xffQSF\0\r\n".to_vec();
        let mut bytes = noise.clone();
        bytes.extend_from_slice(&answer().encode());
        bytes.extend_from_slice(b"frames");
        for step in 1..=bytes.len() {
            let mut reader = PrefaceReader::<Answer>::default();
            let mut pieces = bytes.chunks(step).map(Bytes::copy_from_slice);
            let (got, rest) = pieces.find_map(|piece| reader.feed(piece).unwrap()).unwrap();
            let rest: Vec<u8> = rest.into_iter().chain(pieces.flatten()).collect();
            assert_eq!((got, &rest[..]), (answer(), &b"frames"[..]), "step {step}");
            assert_eq!(reader.noise(), noise);
        }
        let mut reader = PrefaceReader::<ClientHello>::default();
        let (got, rest) = reader.feed(client.encode()).unwrap().unwrap();
        assert_eq!((got, rest.len()), (client, 0));
    }

    #[test]
    fn sixty_four_kib_of_noise_are_skipped_and_not_a_byte_more() {
        for (noise, found) in [(MAX_NOISE, true), (MAX_NOISE + 1, false)] {
            let mut reader = PrefaceReader::<Answer>::default();
            let mut bytes = alloc::vec![b'x'; noise];
            bytes.extend_from_slice(&answer().encode());
            assert_eq!(reader.feed(Bytes::from(bytes)).is_ok(), found, "{noise}");
        }
    }

    #[test]
    fn the_server_end_takes_no_noise_from_a_client() {
        let mut reader = PrefaceReader::<ClientHello>::default();
        assert_eq!(reader.feed(Bytes::from("G")), Err(PrefaceError::NoMagic(1)));
    }

    #[test]
    fn a_later_version_is_refused_in_words_and_its_refusal_is_read() {
        let mut bytes = hello(Role::Channel).encode().to_vec();
        bytes[12] = 2;
        let mut reader = PrefaceReader::<ClientHello>::default();
        let error = reader.feed(Bytes::from(bytes)).unwrap_err();
        assert_eq!(error, PrefaceError::Version(2));
        let refusal = Answer::Refused(error.reason());
        let mut bytes = refusal.encode().to_vec();
        bytes[12] = 7;
        let got = PrefaceReader::<Answer>::default().feed(Bytes::from(bytes)).unwrap();
        assert_eq!(got.map(|(answer, _)| answer), Some(refusal), "whatever its version");
    }

    #[test]
    fn fields_added_by_a_later_revision_are_skipped() {
        let mut bytes = answer().encode().to_vec();
        bytes.extend_from_slice(b"more");
        bytes[8] += 4;
        let got = PrefaceReader::<Answer>::default().feed(Bytes::from(bytes)).unwrap();
        assert_eq!(got, Some((answer(), Bytes::new())));
    }

    #[test]
    fn an_unknown_required_capability_is_refused() {
        let theirs = Capabilities { required: 4, offered: 4 };
        assert_eq!(theirs.agree(Capabilities::OURS), Err(PrefaceError::Capabilities(4)));
        let ours = Capabilities { required: 1, offered: 1 };
        assert_eq!(theirs.agree(ours), Err(PrefaceError::Capabilities(5)));
    }

    #[test]
    fn a_grant_is_no_answer_to_a_call_for_a_channel() {
        let Answer::Taken(server) = answer() else { unreachable!() };
        assert_eq!(server.check(&hello(Role::Channel)), Err(PrefaceError::Role));
        assert_eq!(server.check(&hello(Role::Grant(Nonce([9; 16])))), Ok(()));
    }
}
