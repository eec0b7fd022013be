//! Buffers for what is read, used again once the reply that carried them is gone.
//!
//! A fresh half megabyte costs the kernel 128 page faults, more than reading it from the page cache
//! does. A buffer's filled front is split off and sent; the rest stays here, and takes the front
//! back as soon as nobody holds it.

use std::sync::Mutex;

use bytes::BytesMut;

use super::node::lock;

/// Below this a buffer is made anew: the allocator has small ones at hand.
const SMALL: usize = 16 << 10;

/// Bytes that are kept at most, and buffers: what 32 threads use at the largest msize.
const MOST_BYTES: usize = 32 << 20;
const MOST: usize = 64;

/// How many of the buffers used last are tried.
const TRIES: usize = 8;

/// The buffers of a process.
#[derive(Debug, Default)]
pub struct Buffers(Mutex<Pool>);

#[derive(Debug, Default)]
struct Pool {
    free: Vec<(BytesMut, usize)>,
    bytes: usize,
}

/// A buffer, and the size of its allocation.
#[derive(Debug)]
pub struct Buffer {
    /// Empty, with room for what was asked for.
    pub bytes: BytesMut,
    whole: usize,
}

impl Buffers {
    /// A buffer with room for `count` bytes.
    pub fn take(&self, count: usize) -> Buffer {
        if count > SMALL {
            let mut pool = lock(&self.0);
            let first = pool.free.len().saturating_sub(TRIES);
            for at in (first..pool.free.len()).rev() {
                if pool.free[at].0.try_reclaim(count) {
                    let (bytes, whole) = pool.free.swap_remove(at);
                    pool.bytes -= whole;
                    return Buffer { bytes, whole };
                }
            }
        }
        Buffer { bytes: BytesMut::with_capacity(count), whole: count }
    }

    /// Gives back what is left of a buffer after its front was split off.
    pub fn give(&self, buffer: Buffer) {
        if buffer.whole <= SMALL {
            return;
        }
        let mut pool = lock(&self.0);
        if pool.free.len() >= MOST || pool.bytes + buffer.whole > MOST_BYTES {
            return;
        }
        pool.bytes += buffer.whole;
        pool.free.push((buffer.bytes, buffer.whole));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_once_its_reply_is_gone() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(100_000);
        buffer.bytes.resize(100_000, 7);
        let sent = buffer.bytes.split().freeze();
        let memory = sent.as_ptr();
        buffers.give(buffer);
        let other = buffers.take(100_000);
        assert_ne!(other.bytes.as_ptr(), memory, "the reply still holds it");
        drop(sent);
        assert_eq!(buffers.take(100_000).bytes.as_ptr(), memory);
    }
}
