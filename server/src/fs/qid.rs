//! Qids: the identity that a client's caches go by.
//!
//! The path comes from device and inode and is unique below the folder, also where other file
//! systems are mounted in it. The version comes from the change time and the size, so that a cache
//! can tell a changed file, and is never 0: Linux caches nothing of version 0.

use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, Statx};
use transport::ninep::{Qid, QidKind};

/// Bits of a qid path that hold the inode number of devices other than the root's.
const INODE_BITS: u32 = 56;

/// Numbers devices as they are met: the root's is 0.
#[derive(Debug)]
pub struct Devices {
    root: u64,
    others: Mutex<Vec<u64>>,
}

/// A device number of statx(2) as one number.
pub fn device(st: &Statx) -> u64 {
    u64::from(st.stx_dev_major) << 32 | u64::from(st.stx_dev_minor)
}

impl Devices {
    /// For a folder on device `root`.
    pub fn new(root: u64) -> Devices {
        Devices { root, others: Mutex::new(Vec::new()) }
    }

    /// A number unique to the device and inode. Files on the root's device keep their inode number;
    /// others have their device's index in the top byte. Two could only meet where inode numbers
    /// use more than 56 bits, or beyond 255 devices.
    pub fn path(&self, device: u64, inode: u64) -> u64 {
        if device == self.root {
            return inode;
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let index = others.iter().position(|&known| known == device).unwrap_or_else(|| {
            if others.len() < 255 {
                others.push(device);
            }
            others.len() - 1
        });
        inode ^ (index as u64 + 1) << INODE_BITS
    }

    /// The qid of a node by its attributes.
    pub fn qid(&self, st: &Statx) -> Qid {
        Qid {
            kind: kind(FileType::from_raw_mode(st.stx_mode.into())),
            version: version(st),
            path: self.path(device(st), st.stx_ino),
        }
    }
}

/// The type byte of a node's qid.
pub fn kind(of: FileType) -> QidKind {
    match of {
        FileType::Directory => QidKind::DIR,
        FileType::Symlink => QidKind::SYMLINK,
        _ => QidKind::FILE,
    }
}

/// Another number for another change time or size, but for one chance in four milliards.
fn version(st: &Statx) -> u32 {
    let time = (st.stx_ctime.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(st.stx_ctime.tv_nsec.into());
    // A multiplication by an odd number spreads every bit upwards; the top half is taken.
    let mixed = (time ^ st.stx_size.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 32) as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_do_not_meet() {
        let devices = Devices::new(7);
        assert_eq!(devices.path(7, 42), 42);
        let (a, b) = (devices.path(8, 42), devices.path(9, 42));
        assert!(a != 42 && b != 42 && a != b);
        assert_eq!(devices.path(8, 42), a, "a device keeps its number");
    }
}
