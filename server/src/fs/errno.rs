//! Errors as they go over the wire: Linux's own numbers.
//!
//! Linux's client hands a number from 1 to 4,095 on to programs as it is, takes 0 for a broken
//! reply and shows numbers above 511 that no program knows (kernel `net/9p/client.c`:
//! `p9_check_errors`). So only numbers of errno(3) leave this module.

pub use rustix::io::Errno;

/// What every operation gives.
pub type Result<T, E = Errno> = core::result::Result<T, E>;

/// The largest number that errno(3) names; those from 512 on are the kernel's own.
const LARGEST: i32 = 133;

/// `errno` as `Rlerror` carries it: 1 to 133, `EIO` for what is not a program's to see.
pub fn wire(errno: Errno) -> u32 {
    let raw = errno.raw_os_error();
    if (1..=LARGEST).contains(&raw) { raw as u32 } else { Errno::IO.raw_os_error() as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_of_errno_leave() {
        assert_eq!(wire(Errno::NOENT), 2);
        assert_eq!(wire(Errno::from_raw_os_error(512)), 5);
        assert_eq!(wire(Errno::HWPOISON), 133);
    }
}
