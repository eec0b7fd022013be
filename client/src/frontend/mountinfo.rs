//! What is mounted where, as the kernel tells it in /proc/self/mountinfo (proc_pid_mountinfo(5)).
//!
//! Only what this program asks of a mount is kept. Sources and paths are bytes; the kernel writes
//! blanks, newlines, backslashes and `#` in them as three octal digits.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::mount::MountFlags;

use crate::exit::{Exit, Failure};
use crate::options;

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The device number that files on it have, major and minor.
    pub device: (u32, u32),
    /// Where it is, seen from this process's root.
    pub mount_point: PathBuf,
    /// The type of the file system, such as `9p`.
    pub kind: OsString,
    /// What it was mounted from, such as `work:/srv`.
    pub source: OsString,
    /// The options of the mount itself, such as `rw,nosuid`.
    pub options: String,
    /// The options of the file system, such as `msize=65536`.
    pub super_options: String,
}

impl Entry {
    /// The value of `name` among the file system's options.
    pub fn super_option(&self, name: &str) -> Option<&str> {
        let mut options = self.super_options.split(',');
        options.find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }

    /// Fails where the mount has not all of `flags`.
    pub fn check_flags(&self, flags: MountFlags) -> Result<(), Failure> {
        let has = |name: &str| self.options.split(',').any(|option| option == name);
        match options::shown(flags).find(|name| !has(name)) {
            None => Ok(()),
            Some(name) => {
                let why =
                    format!("mount option {name} is not known to this system's mount or kernel");
                Err(Failure::new(Exit::Usage, why).hint("leave it away"))
            }
        }
    }

    /// Whether it looks like a mount of this program's: v9fs over a socket, or FUSE of type
    /// `fuse.qvm`, from `SERVER:FOLDER`. Its daemon may have gone, so nobody else could tell.
    pub fn is_ours(&self) -> bool {
        let v9fs = self.kind == "9p" && self.super_option("trans") == Some("fd");
        let named = self.source.as_bytes().iter().position(|&byte| byte == b':');
        (v9fs || self.kind == "fuse.qvm") && named.is_some_and(|at| at > 0)
    }
}

/// All mounts that this process sees, in the order in which they were made.
pub fn entries() -> io::Result<Vec<Entry>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

/// The mount that is seen at `path`: the topmost one exactly there.
pub fn at(path: &Path) -> io::Result<Option<Entry>> {
    Ok(entries()?.into_iter().rev().find(|entry| entry.mount_point == path))
}

/// A line of mountinfo; `None` for one that is not understood.
fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mount_point = OsString::from_vec(unescape(fields.nth(1)?)).into();
    let options = text(fields.next()?);
    // Any number of optional fields, then a dash.
    fields.find(|field| field == b"-")?;
    Some(Entry {
        device: (major.parse().ok()?, minor.parse().ok()?),
        mount_point,
        kind: OsString::from_vec(unescape(fields.next()?)),
        source: OsString::from_vec(unescape(fields.next()?)),
        options,
        super_options: text(fields.next()?),
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => bytes.push(*byte),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn lines() {
        let line =
            b"36 35 0:47 / /mnt/My\\040docs\\134 rw,nosuid,nodev,relatime shared:1 master:2 \
                     - 9p work:/srv/a\\011b\xff rw,access=client,msize=65536,trans=fd";
        let entry = parse(line).unwrap();
        assert_eq!(entry.device, (0, 47));
        assert_eq!(entry.mount_point, Path::new("/mnt/My docs\\"));
        assert_eq!(entry.kind, "9p");
        assert_eq!(entry.source, OsStr::from_bytes(b"work:/srv/a\tb\xff"));
        assert_eq!(entry.options, "rw,nosuid,nodev,relatime");
        assert_eq!(entry.super_option("msize"), Some("65536"));
        assert_eq!(entry.super_option("size"), None);
        assert_eq!(entry.super_option("rw"), None);
        assert_eq!(parse(b"36 35 0:47 / /mnt rw - 9p work:/srv rw").unwrap().options, "rw");
        for line in [&b""[..], b"36 35 0:47 / /mnt rw", b"36 35 x / /mnt rw - 9p a rw"] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn mounts_of_this_program_are_told_from_others() {
        for (line, ours) in [
            (&b"36 35 0:47 / /mnt rw - 9p work:/srv rw,access=client,trans=fd"[..], true),
            (b"36 35 0:47 / /mnt rw - fuse.qvm work:media rw,user_id=0", true),
            (b"36 35 0:47 / /mnt rw - 9p work:/srv rw,access=client,trans=virtio", false),
            (b"36 35 0:47 / /mnt rw - 9p hostshare rw,trans=fd", false),
            (b"36 35 0:47 / /mnt rw - nfs work:/srv rw", false),
        ] {
            assert_eq!(parse(line).unwrap().is_ours(), ours);
        }
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(at(Path::new("/")).unwrap().is_some());
        assert_eq!(at(Path::new("/proc/self/mountinfo")).unwrap(), None);
    }
}
