//! Folders: OPENDIR, READDIR and READDIRPLUS.
//!
//! READDIRPLUS tells the kernel of each entry what a LOOKUP would. A name costs two round trips, so what
//! comes next in the folder is looked at while the kernel takes what came before: many names at once,
//! and no older than the mount's lifetime of attributes when they are told.
//!
//! A listing is a server's word and checked as such: names that could not be names are left out.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use polyfuse_kernel::{fuse_dirent, fuse_direntplus, fuse_entry_out, fuse_open_out, fuse_read_in};
use rustix::io::Errno;
use tokio::sync::oneshot;
use transport::ninep::codec::Reader;
use transport::ninep::message::{Entry, open};
use transport::ninep::{Pieces, Qid, Rmessage, Tmessage};
use zerocopy::IntoBytes;

use super::abi::{DIRENT_ALIGN, Reply, Request};
use super::attr::Attr;
use super::handle::{Folder, Handle};
use super::interrupt::Cancel;
use super::mount::Mount;
use super::ninep::{Asked, OwnedFid};

/// The most bytes of entries that are asked for at once.
const CHUNK: u32 = 64 * 1024;
/// Names that are looked at ahead of the kernel: two round trips' worth of a fast reader.
const AHEAD: usize = 128;
/// The longest name (limits.h: `NAME_MAX`).
const NAME: usize = 255;

/// How far an open folder has been read.
#[derive(Default)]
pub struct Listing {
    /// Where the kernel goes on: the offset of the entry before the front one.
    at: u64,
    entries: VecDeque<Found>,
    /// What comes behind them has been asked for already.
    next: Option<Asked>,
    ended: bool,
}

/// An entry that the kernel has not been told of.
struct Found {
    path: u64,
    offset: u64,
    kind: u8,
    name: Box<[u8]>,
    looked: Option<Looked>,
}

/// A name that is looked at, or has been.
struct Looked {
    since: Instant,
    result: oneshot::Receiver<Result<(OwnedFid, Qid, Attr), Errno>>,
}

impl Found {
    fn is_dots(&self) -> bool {
        matches!(&*self.name, b"." | b"..")
    }
}

impl Mount {
    /// OPENDIR.
    pub async fn opendir(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let node = self.nodes.get(request.header.nodeid)?;
        let (fid, _) = self.client.walk(cancel, node.fid().number(), None).await?;
        let opened = Tmessage::Tlopen { fid: fid.number(), flags: open::DIRECTORY };
        self.client.call(cancel, &opened).await?;
        let fid = Rc::new(fid);
        node.opened(&fid);
        let folder = Folder { node, fid, listing: tokio::sync::Mutex::default() };
        let fh = self.handles.add(Handle::Folder(Rc::new(folder)));
        Ok(Reply::of(&fuse_open_out { fh, open_flags: 0, padding: 0 }))
    }

    /// READDIR, and READDIRPLUS where `plus` says so.
    pub async fn readdir(
        self: &Rc<Self>,
        cancel: &Cancel,
        request: &Request,
        plus: bool,
    ) -> Result<Reply, Errno> {
        let arg: fuse_read_in = request.arg()?;
        let folder = self.handles.folder(arg.fh)?;
        let room = arg.size as usize;
        let mut listing = folder.listing.lock().await;
        if listing.at != arg.offset || arg.offset == 0 {
            *listing = Listing { at: arg.offset, ..Listing::default() };
        }
        let mut reply = Vec::new();
        loop {
            if listing.entries.is_empty() {
                if listing.ended || !self.fetch(cancel, &folder, &mut listing).await? {
                    break;
                }
                continue;
            }
            if plus {
                self.look_ahead(&folder, &mut listing)?;
            }
            let front = &mut listing.entries[0];
            let head = if plus { size_of::<fuse_direntplus>() } else { size_of::<fuse_dirent>() };
            let size = (head + front.name.len()).next_multiple_of(DIRENT_ALIGN);
            if reply.len() + size > room {
                if reply.is_empty() {
                    return Err(Errno::INVAL);
                }
                break;
            }
            if plus {
                let entry = self.told(cancel, &folder, front).await;
                reply.extend_from_slice(entry.as_bytes());
            }
            let dirent = fuse_dirent {
                ino: front.path,
                off: front.offset,
                namelen: front.name.len() as u32,
                typ: front.kind.into(),
                name: [],
            };
            reply.extend_from_slice(dirent.as_bytes());
            reply.extend_from_slice(&front.name);
            reply.resize(reply.len().next_multiple_of(DIRENT_ALIGN), 0);
            listing.at = front.offset;
            listing.entries.pop_front();
        }
        Ok(Reply { head: reply, pieces: Vec::new() })
    }

    /// Takes in what comes next in the folder; whether anything did.
    async fn fetch(
        &self,
        cancel: &Cancel,
        folder: &Folder,
        listing: &mut Listing,
    ) -> Result<bool, Errno> {
        let asked = match listing.next.take() {
            Some(asked) => asked,
            None => self.ask_entries(folder, listing.at)?,
        };
        let packet = self.client.reply(cancel, asked).await?;
        let Ok((_, Rmessage::Rreaddir { count })) = Rmessage::decode(&packet) else {
            return Err(Errno::IO);
        };
        if count == 0 {
            listing.ended = true;
            return Ok(false);
        }
        // In one piece, as an entry may lie across two.
        let bytes: Vec<u8> = packet.body.iter().flat_map(|piece| piece.iter().copied()).collect();
        let last = take_in(&bytes, &mut listing.entries)?;
        if listing.entries.is_empty() {
            // All were left out: what is behind them may not be.
            listing.at = last;
        }
        Ok(true)
    }

    fn ask_entries(&self, folder: &Folder, offset: u64) -> Result<Asked, Errno> {
        let count = CHUNK.min(self.client.payload());
        let fid = folder.fid.number();
        self.client.ask(&Tmessage::Treaddir { fid, offset, count }, Pieces::new())
    }

    /// Looks at the next names, and asks for those behind them.
    fn look_ahead(
        self: &Rc<Self>,
        folder: &Rc<Folder>,
        listing: &mut Listing,
    ) -> Result<(), Errno> {
        for entry in listing.entries.iter_mut().take(AHEAD) {
            if entry.looked.is_none() && !entry.is_dots() {
                entry.looked = Some(self.look_at(folder, &entry.name));
            }
        }
        let last = listing.entries.back().filter(|_| listing.entries.len() < AHEAD);
        if let (Some(last), None) = (last, &listing.next) {
            listing.next = Some(self.ask_entries(folder, last.offset)?);
        }
        Ok(())
    }

    fn look_at(self: &Rc<Self>, folder: &Rc<Folder>, name: &[u8]) -> Looked {
        let (to, result) = oneshot::channel();
        let (mount, folder, name) = (Rc::clone(self), Rc::clone(folder), name.to_vec());
        tokio::task::spawn_local(async move {
            let parent = folder.node.fid();
            // Nobody waits for it alone, and it is not given up: its fid would be lost.
            let found = mount.look(&Cancel::default(), parent.number(), &name).await;
            let _ = to.send(found);
        });
        Looked { since: Instant::now(), result }
    }

    /// What a READDIRPLUS says of `entry` besides its name: nothing of one that has gone meanwhile.
    async fn told(
        self: &Rc<Self>,
        cancel: &Cancel,
        folder: &Rc<Folder>,
        entry: &mut Found,
    ) -> fuse_entry_out {
        if entry.is_dots() {
            return fuse_entry_out::default();
        }
        let fresh = entry.looked.take().filter(|looked| looked.since.elapsed() < self.lifetime);
        let looked = fresh.unwrap_or_else(|| self.look_at(folder, &entry.name));
        let result = tokio::select! {
            result = looked.result => result.unwrap_or(Err(Errno::IO)),
            () = cancel.wanted() => Err(Errno::INTR),
        };
        match result {
            Ok((fid, qid, attr)) => {
                let node = self.found(fid, qid, &attr, folder.node.id, &entry.name);
                self.entry(&node, qid, &attr)
            }
            Err(_) => fuse_entry_out::default(),
        }
    }
}

/// Takes in what a server says is in a folder; gives the offset behind it.
fn take_in(bytes: &[u8], entries: &mut VecDeque<Found>) -> Result<u64, Errno> {
    let mut reader = Reader::new(bytes);
    let mut last = 0;
    while !reader.rest().is_empty() {
        let entry: Entry<'_> = reader.field().map_err(|_| Errno::IO)?;
        last = entry.offset;
        let name = entry.name;
        let bad = |&byte: &u8| matches!(byte, 0 | b'/');
        if !(1..=NAME).contains(&name.len()) || name.iter().any(bad) {
            continue;
        }
        entries.push_back(Found {
            path: entry.qid.path,
            offset: entry.offset,
            kind: entry.kind,
            name: name.into(),
            looked: None,
        });
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use transport::ninep::QidKind;
    use transport::ninep::codec::Wire;

    #[test]
    fn names_that_could_be_none_are_left_out() {
        let long = [b'n'; 256];
        let names: [&[u8]; 9] =
            [b"a", b"", b"a/b", b"/", b"a\0b", &long, &long[1..], b"..", b"\xff\n"];
        let mut bytes = BytesMut::new();
        for (offset, name) in (1..).zip(names) {
            let qid = Qid { kind: QidKind::FILE, version: 0, path: offset };
            Entry { qid, offset, kind: 8, name }.write(&mut bytes);
        }
        let mut entries = VecDeque::new();
        assert_eq!(take_in(&bytes, &mut entries), Ok(9));
        let taken: Vec<&[u8]> = entries.iter().map(|entry| &*entry.name).collect();
        assert_eq!(taken, [&b"a"[..], &long[1..], b"..", b"\xff\n"]);
        assert_eq!(take_in(&bytes[..bytes.len() - 1], &mut entries), Err(Errno::IO));
        assert_eq!(take_in(b"", &mut entries), Ok(0));
    }
}
