//! Memory for replies, used again once those that it carried are gone: in the steady state none is
//! asked of the allocator.
//!
//! A fresh half megabyte costs the kernel 128 page faults, more than reading it from the page cache
//! does, and a fresh hundred bytes cost more than writing them. A buffer's filled front is split off
//! and sent; the rest stays here, serves the next while there is room, and takes the front back as soon
//! as nobody holds it. Large payloads have a buffer each, small ones and heads share them.

use std::sync::Mutex;

use bytes::BytesMut;
use transport::ninep::Packet;

use super::node::lock;

/// Up to this many bytes payloads share a buffer: one that stays long holds little more than itself.
const SMALL: usize = 16 << 10;
/// A buffer of small payloads.
const SHARED: usize = 64 << 10;
/// A buffer of heads: two allocations, so for 300 heads of the largest frequent kind, `Rgetattr`, no
/// more than 0.007 each even where none ever comes back.
const HEADS: usize = 48 << 10;
/// Room that a head may count on: all but those with a long string have it, and those grow.
const HEAD: usize = 512;

/// Bytes that are kept at most, and buffers: what 32 threads use at the largest msize.
const MOST_BYTES: usize = 32 << 20;
const MOST: usize = 64;

/// The buffers of a process.
#[derive(Debug, Default)]
pub struct Buffers {
    large: Mutex<Pool>,
    small: Mutex<Pool>,
    heads: Mutex<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    free: Vec<Buffer>,
    bytes: usize,
}

/// A buffer, and the size of its allocation.
#[derive(Debug)]
pub struct Buffer {
    /// Empty, with room for what was asked for.
    pub bytes: BytesMut,
    whole: usize,
}

impl Pool {
    /// A buffer with room for `count` bytes, `whole` at its making.
    fn take(&mut self, count: usize, whole: usize) -> Buffer {
        for at in (0..self.free.len()).rev() {
            if self.free[at].bytes.try_reclaim(count) {
                let buffer = self.free.swap_remove(at);
                self.bytes -= buffer.whole;
                return buffer;
            }
        }
        Buffer { bytes: BytesMut::with_capacity(whole), whole }
    }

    fn give(&mut self, buffer: Buffer) {
        if self.free.len() < MOST && self.bytes + buffer.whole <= MOST_BYTES {
            self.bytes += buffer.whole;
            self.free.push(buffer);
        }
    }
}

impl Buffers {
    /// A buffer with room for `count` bytes.
    pub fn take(&self, count: usize) -> Buffer {
        // Never as large as one that is shared: that is how they are told apart.
        let whole = if count == SHARED { SHARED + 1 } else { count };
        if count > SMALL {
            lock(&self.large).take(count, whole)
        } else {
            lock(&self.small).take(count, SHARED)
        }
    }

    /// Gives back what is left of a buffer after its front was split off.
    pub fn give(&self, buffer: Buffer) {
        let pool = if buffer.whole == SHARED { &self.small } else { &self.large };
        lock(pool).give(buffer);
    }

    /// The packet whose head `write` writes to the empty buffer that it is given.
    pub fn head(&self, write: impl FnOnce(&mut BytesMut) -> Packet) -> Packet {
        let mut pool = lock(&self.heads);
        let mut buffer = pool.take(HEAD, HEADS);
        let packet = write(&mut buffer.bytes);
        pool.give(buffer);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn send(buffers: &Buffers, count: usize) -> Bytes {
        let mut buffer = buffers.take(count);
        buffer.bytes.resize(count, 7);
        let sent = buffer.bytes.split().freeze();
        buffers.give(buffer);
        sent
    }

    #[test]
    fn a_buffer_comes_back_once_its_reply_is_gone() {
        let buffers = Buffers::default();
        let sent = send(&buffers, 100_000);
        let memory = sent.as_ptr();
        assert_ne!(buffers.take(100_000).bytes.as_ptr(), memory, "the reply still holds it");
        drop(sent);
        assert_eq!(buffers.take(100_000).bytes.as_ptr(), memory);
    }

    #[test]
    fn small_ones_share_a_buffer_and_take_turns_with_it() {
        let buffers = Buffers::default();
        for _ in 0..1000 {
            let sent: Vec<Bytes> = (0..40).map(|_| send(&buffers, 4000)).collect();
            assert!(sent.iter().all(|piece| piece.iter().all(|&byte| byte == 7)));
        }
        // Sixteen fit one.
        assert!(lock(&buffers.small).free.len() <= 4, "{:?}", lock(&buffers.small).free.len());
    }
}
