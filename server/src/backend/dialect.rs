//! How the server at the far end of a socket differs from the embedded one, and what is made of that
//! before it sees a request.
//!
//! Our own process is asked as it comes. diod (1.0.24) is not:
//! - It takes its folder's path as `aname` and wants a user who may attach. The client end knows neither
//!   the path nor the service's user: everything is done as that user, so both are put in here. An
//!   `aname` that is neither empty nor the folder is refused here, since diod compares but the length.
//! - It puts the client's names behind its own path as they are. So each is checked to be a single
//!   component here; what a path through a symbolic link finds, only the process's empty root bounds.
//! - It takes an msize of 2 GiB and more for a negative one.
//! - It forgets nothing at a second `Tversion`, so there is none.
//! - Of two `Tflush`es of one request it answers the later one.
//!
//! Follows diod's `libnpfs/fcall.c`, `diod/ops.c`, `diod/exp.c`.

use transport::id::{Msize, Tag};
use transport::ninep::{Packet, Rmessage, Tmessage};

use crate::requests::Manners;

/// Which server it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// A file server of ours.
    Ours,
    /// diod.
    Diod {
        /// The path of its folder.
        folder: Vec<u8>,
        /// The user that it runs as.
        user: u32,
    },
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Translated {
    /// It goes to the server.
    Ask(Packet),
    /// It is answered here.
    Answer(Packet),
}

impl Dialect {
    /// The most that diod takes (`diod/ops.c`: `srv->msize`).
    const DIOD_MSIZE: u32 = 65_536;

    /// The largest msize that the server takes, if not above `wanted`.
    pub fn msize(&self, wanted: Msize) -> Msize {
        match self {
            Dialect::Ours => wanted,
            Dialect::Diod { .. } => {
                Msize::new(wanted.bytes().min(Dialect::DIOD_MSIZE)).unwrap_or(Msize::MIN)
            }
        }
    }

    /// How the server treats its requests. diod answers a lock that is to be waited for with "blocked".
    pub(crate) fn manners(&self) -> Manners {
        let ours = *self == Dialect::Ours;
        Manners { parks: ours, keeps_locks_here: false, answers_last_flush_only: !ours }
    }

    /// Whether a session can begin anew.
    pub fn begins_anew(&self) -> bool {
        *self == Dialect::Ours
    }

    /// Makes of a request what the server understands.
    pub fn translate(&self, tag: Tag, message: &Tmessage<'_>, request: Packet) -> Translated {
        let Dialect::Diod { folder, user } = self else { return Translated::Ask(request) };
        if let Tmessage::Tattach { fid, afid, uname, aname, .. } = *message {
            if !aname.is_empty() && aname != folder {
                return Translated::Answer(Rmessage::error(tag, libc::ENOENT as u32));
            }
            let attach = Tmessage::Tattach { fid, afid, uname, aname: folder, n_uname: *user };
            return Translated::Ask(attach.encode(tag));
        }
        if let Tmessage::Tversion { msize, version } = *message {
            let msize = msize.min(Dialect::DIOD_MSIZE);
            return Translated::Ask(Tmessage::Tversion { msize, version }.encode(tag));
        }
        match mistake(message) {
            Some(errno) => Translated::Answer(Rmessage::error(tag, errno as u32)),
            None => Translated::Ask(request),
        }
    }
}

/// What is wrong with a request's names, if anything, as an errno.
fn mistake(message: &Tmessage<'_>) -> Option<i32> {
    match *message {
        // Nobody is asked who they are here.
        Tmessage::Tauth { .. } => Some(libc::EOPNOTSUPP),
        Tmessage::Twalk { ref names, .. } => {
            names.as_slice().iter().find_map(|name| wrong_name(name))
        }
        Tmessage::Tlcreate { name, .. }
        | Tmessage::Tmkdir { name, .. }
        | Tmessage::Tmknod { name, .. }
        | Tmessage::Tlink { name, .. }
        | Tmessage::Trename { name, .. }
        | Tmessage::Tunlinkat { name, .. } => wrong_name(name),
        Tmessage::Tsymlink { name, target, .. } => {
            wrong_name(name).or(target.contains(&0).then_some(libc::EINVAL))
        }
        Tmessage::Trenameat { oldname, newname, .. } => {
            wrong_name(oldname).or_else(|| wrong_name(newname))
        }
        Tmessage::Txattrwalk { name, .. } | Tmessage::Txattrcreate { name, .. } => {
            name.contains(&0).then_some(libc::EINVAL)
        }
        _ => None,
    }
}

fn wrong_name(name: &[u8]) -> Option<i32> {
    match name {
        b"" | b"." | b".." => Some(libc::EINVAL),
        _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Some(libc::EINVAL),
        _ if name.len() > 255 => Some(libc::ENAMETOOLONG),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::id::Fid;
    use transport::ninep::Names;

    fn diod() -> Dialect {
        Dialect::Diod { folder: b"/srv/a b".to_vec(), user: 1000 }
    }

    fn translate(message: Tmessage<'_>) -> Translated {
        diod().translate(Tag(7), &message, message.encode(Tag(7)))
    }

    #[test]
    fn an_attach_is_made_to_the_folder_as_the_services_user() {
        let attach = |aname, n_uname| Tmessage::Tattach {
            fid: Fid(1),
            afid: Fid::NONE,
            uname: b"joe",
            aname,
            n_uname,
        };
        let asked = Translated::Ask(attach(b"/srv/a b", 1000).encode(Tag(7)));
        assert_eq!(translate(attach(b"", u32::MAX)), asked);
        assert_eq!(translate(attach(b"/srv/a b", 0)), asked);
        let refused = Translated::Answer(Rmessage::error(Tag(7), 2));
        // All that diod itself looks at is that there is a slash behind eight bytes.
        for aname in [&b"/"[..], b"/srv", b"/srv/a b/", b"/srv/a b/c", b"/etc/xyz/passwd", b"ctl"] {
            assert_eq!(translate(attach(aname, 0)), refused, "{aname:?}");
        }
    }

    #[test]
    fn names_that_are_paths_do_not_reach_diod() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/etc", b"a\0b"] {
            let names = Names::new(&[b"a", name]).unwrap();
            let refused = Translated::Answer(Rmessage::error(Tag(7), libc::EINVAL as u32));
            let (fid, dfid) = (Fid(1), Fid(2));
            for message in [
                Tmessage::Twalk { fid, newfid: dfid, names },
                Tmessage::Tlcreate { fid, name, flags: 0, mode: 0, gid: 0 },
                Tmessage::Tmkdir { dfid, name, mode: 0, gid: 0 },
                Tmessage::Tmknod { dfid, name, mode: 0, major: 0, minor: 0, gid: 0 },
                Tmessage::Tlink { dfid, fid, name },
                Tmessage::Trename { fid, dfid, name },
                Tmessage::Tunlinkat { dirfid: dfid, name, flags: 0 },
                Tmessage::Tsymlink { dfid, name, target: b"t", gid: 0 },
                Tmessage::Trenameat {
                    olddirfid: fid,
                    oldname: b"a",
                    newdirfid: dfid,
                    newname: name,
                },
                Tmessage::Trenameat {
                    olddirfid: fid,
                    oldname: name,
                    newdirfid: dfid,
                    newname: b"a",
                },
            ] {
                assert_eq!(translate(message), refused, "{message:?}");
                assert!(matches!(
                    Dialect::Ours.translate(Tag(7), &message, message.encode(Tag(7))),
                    Translated::Ask(_)
                ));
            }
        }
        let names = Names::new(&[b"..a", b".b", b"\xff"]).unwrap();
        let walk = Tmessage::Twalk { fid: Fid(1), newfid: Fid(2), names };
        assert_eq!(translate(walk), Translated::Ask(walk.encode(Tag(7))));
    }
}
