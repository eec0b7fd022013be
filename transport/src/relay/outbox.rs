//! Pieces on their way into a descriptor: many in one vectored write, none of them copied.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::AsFd;

use bytes::{Buf, Bytes};
use rustix::io::Errno;

use crate::ninep::Packet;

/// Pieces in one writev(2); the kernel takes 1,024.
const VECTOR: usize = 256;

/// What came of a try to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Bytes that the descriptor took.
    pub bytes: usize,
    /// What they were worth: the sum of `worth` of the pieces that are wholly gone.
    pub worth: u32,
    /// The descriptor takes no more now.
    pub full: bool,
}

/// A queue of pieces.
#[derive(Debug, Default)]
pub struct Outbox {
    pieces: VecDeque<(Bytes, u32)>,
    bytes: usize,
}

impl Outbox {
    /// Adds a piece. `worth` is given back when it is gone: credit that it takes up until then.
    pub fn push(&mut self, piece: Bytes, worth: u32) {
        self.bytes += piece.len();
        self.pieces.push_back((piece, worth));
    }

    /// Adds a whole message, worth nothing.
    pub fn push_packet(&mut self, packet: Packet) {
        self.push(packet.head, 0);
        packet.body.into_iter().for_each(|piece| self.push(piece, 0));
    }

    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Writes until nothing is left or the descriptor takes no more. Errors are those of writev(2),
    /// but for EAGAIN and EINTR.
    pub fn write(&mut self, fd: impl AsFd) -> Result<Written, Errno> {
        let mut done = Written::default();
        while !self.pieces.is_empty() {
            let mut vector = [IoSlice::new(&[]); VECTOR];
            let mut count = 0;
            for (slot, (piece, _)) in vector.iter_mut().zip(&self.pieces) {
                *slot = IoSlice::new(piece);
                count += 1;
            }
            match rustix::io::writev(&fd, &vector[..count]) {
                Ok(written) => {
                    done.bytes += written;
                    done.worth += self.advance(written);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    done.full = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn advance(&mut self, mut written: usize) -> u32 {
        self.bytes -= written;
        let mut worth = 0;
        while let Some((piece, value)) = self.pieces.front_mut() {
            if piece.len() > written {
                piece.advance(written);
                break;
            }
            written -= piece.len();
            worth += *value;
            self.pieces.pop_front();
        }
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_descriptor_goes_on_where_it_stopped() {
        let (near, far) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut outbox = Outbox::default();
        let sent: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        let pieces: Vec<&[u8]> = sent.chunks(777).collect();
        for piece in &pieces {
            outbox.push(Bytes::copy_from_slice(piece), 1);
        }
        let (mut got, mut worth, mut stops) = (Vec::new(), 0, 0);
        while !outbox.is_empty() {
            let written = outbox.write(&far).unwrap();
            worth += written.worth;
            stops += usize::from(written.full);
            let mut buffer = [0; 50_000];
            let count = rustix::io::read(&near, &mut buffer).unwrap();
            got.extend_from_slice(&buffer[..count]);
        }
        while got.len() < sent.len() {
            let mut buffer = [0; 50_000];
            let count = rustix::io::read(&near, &mut buffer).unwrap();
            got.extend_from_slice(&buffer[..count]);
        }
        assert!(got == sent);
        assert!(stops > 2);
        assert_eq!(worth as usize, pieces.len());
    }
}
