//! What goes into one vectored write: frames as a list of buffers, with as few buffers as can be.
//!
//! Headers, control frames and small payloads are copied one behind the other into a buffer of our
//! own, so that a hundred small replies make one piece and not two hundred; large payloads are
//! handed on as the slices that they are.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::{Bytes, BytesMut};

use super::frame::Frame;

/// A payload below this length is copied behind its header: cheaper than an entry of its own in
/// writev(2), of which there may be 1,024.
const COPY_BELOW: usize = 1024;

/// Our own buffer grows by this much at a time, and is used again once the pieces are written.
const BLOCK: usize = 16 << 10;

/// The pieces of one call of `poll_transmit`.
#[derive(Debug)]
pub(crate) struct Gather<'a> {
    own: &'a mut BytesMut,
    out: &'a mut Vec<Bytes>,
    total: usize,
}

impl<'a> Gather<'a> {
    /// Appends to `out`; `own` is kept between calls and empty at the beginning of each.
    pub fn new(own: &'a mut BytesMut, out: &'a mut Vec<Bytes>) -> Gather<'a> {
        Gather { own, out, total: 0 }
    }

    /// Bytes so far.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Copies bytes.
    pub fn copy(&mut self, bytes: &[u8]) {
        if self.own.capacity() - self.own.len() < bytes.len() {
            self.flush();
            self.own.reserve(bytes.len().max(BLOCK));
        }
        self.own.extend_from_slice(bytes);
        self.total += bytes.len();
    }

    /// Hands bytes on, unless copying them is cheaper.
    pub fn slice(&mut self, bytes: Bytes) {
        if bytes.len() < COPY_BELOW {
            self.copy(&bytes);
        } else {
            self.flush();
            self.total += bytes.len();
            self.out.push(bytes);
        }
    }

    fn flush(&mut self) {
        if !self.own.is_empty() {
            self.out.push(self.own.split().freeze());
        }
    }

    /// Ends the call; gives the bytes appended.
    pub fn finish(mut self) -> usize {
        self.flush();
        self.total
    }
}

/// Control frames that wait to be sent, in order.
#[derive(Debug, Default)]
pub(crate) struct ControlQueue {
    bytes: BytesMut,
    lengths: VecDeque<usize>,
}

impl ControlQueue {
    /// Appends a frame.
    pub fn push(&mut self, frame: &Frame<'_>) {
        let length = frame.encode(&mut self.bytes);
        self.lengths.push_back(length);
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Moves whole frames to `to` until it has `max` bytes, at least one if it has none.
    pub fn drain(&mut self, to: &mut Gather<'_>, max: usize) -> usize {
        let mut frames = 0;
        while let Some(&length) = self.lengths.front() {
            if to.total() > 0 && to.total() >= max {
                break;
            }
            self.lengths.pop_front();
            to.copy(&self.bytes.split_to(length));
            frames += 1;
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_things_become_one_piece_and_large_ones_stay_slices() {
        let (mut own, mut out) = (BytesMut::new(), Vec::new());
        let large = Bytes::from(alloc::vec![1; COPY_BELOW]);
        let mut gather = Gather::new(&mut own, &mut out);
        gather.copy(b"head");
        gather.slice(Bytes::from("small"));
        gather.slice(large.clone());
        gather.copy(b"head");
        assert_eq!(gather.finish(), 13 + COPY_BELOW);
        assert_eq!(out.len(), 3);
        assert_eq!(out[0], "headsmall");
        assert_eq!(out[1].as_ptr(), large.as_ptr());
        assert_eq!(out[2], "head");
    }

    #[test]
    fn our_own_buffer_is_given_out_full_instead_of_being_moved_to_a_larger_one() {
        let (mut own, mut out) = (BytesMut::new(), Vec::new());
        let mut gather = Gather::new(&mut own, &mut out);
        for _ in 0..100 {
            gather.copy(&[7; 1000]);
        }
        assert_eq!(gather.finish(), 100_000);
        let lengths: Vec<usize> = out.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [16_000, 16_000, 16_000, 16_000, 16_000, 16_000, 4_000]);
    }

    #[test]
    fn control_frames_are_moved_whole_and_up_to_the_limit() {
        let mut queue = ControlQueue::default();
        for value in 0..3 {
            queue.push(&Frame::Ping { value });
        }
        let (mut own, mut out) = (BytesMut::new(), Vec::new());
        let mut gather = Gather::new(&mut own, &mut out);
        assert_eq!(queue.drain(&mut gather, 1), 1);
        assert_eq!(queue.drain(&mut gather, 17), 1);
        assert_eq!(gather.finish(), 32);
        assert_eq!(queue.len(), 16);
    }
}
