//! Hints and what takes them back: what is told is what the questions would have been answered with, comes
//! before the reply, and is taken back when it is true no longer.
#![allow(clippy::unwrap_used)] // a test stops where its helpers do

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use server::fs::{Export, Limits, Replies, Session, Workers};
use transport::accel::hint::{Hint, MAX_FORGET, decode_forget};
use transport::id::{Fid, Msize, Tag};
use transport::ninep::message::{Attributes, Names, VERSION};
use transport::ninep::{Kind, Packet, Qid, Rmessage, Tmessage};

/// How long a reply may take before a test fails: a bound on hangs, never part of a verdict.
const PATIENCE: Duration = Duration::from_secs(60);
const MSIZE: u32 = 128 << 10;

/// A node as a test compares it.
#[derive(Clone, PartialEq, Debug)]
struct Seen {
    valid: u64,
    qid: Qid,
    attributes: Attributes,
    xattrs: Option<Vec<Vec<u8>>>,
    watched: bool,
}

/// What was told: by folder and name.
type Told = BTreeMap<(u64, Vec<u8>), Option<Seen>>;

struct Inbox(Mutex<mpsc::Sender<Packet>>);

impl Replies for Inbox {
    fn reply(&self, reply: Packet) {
        // Nobody listens to a session that has been closed.
        let _ = self.0.lock().unwrap().send(reply);
    }
}

struct Client {
    session: Arc<Session>,
    workers: Arc<Workers>,
    replies: mpsc::Receiver<Packet>,
    /// Which folders' names were told as watched.
    watched: Mutex<BTreeMap<u64, bool>>,
}

impl Client {
    /// A client that has attached fid 0, and what that told.
    fn new(folder: &Path, hints: bool) -> (Client, Told) {
        Client::with(folder, hints, Workers::new(Limits::default()))
    }

    fn with(folder: &Path, hints: bool, workers: Arc<Workers>) -> (Client, Told) {
        let export = Export::open(&folder.canonicalize().unwrap(), false).unwrap();
        let (sender, replies) = mpsc::channel();
        let inbox = Arc::new(Inbox(Mutex::new(sender)));
        let make = if hints { Session::with_hints } else { Session::new };
        let session = make(export, Arc::clone(&workers), inbox, Msize::MAX);
        let client = Client { session, workers, replies, watched: Mutex::default() };
        client.call(Tmessage::Tversion { msize: MSIZE, version: VERSION });
        let (fid, afid) = (Fid(0), Fid::NONE);
        let (told, _) =
            client.call(Tmessage::Tattach { fid, afid, uname: b"", aname: b"", n_uname: 0 });
        (client, told)
    }

    /// A request: what was told before its reply, and that.
    fn call(&self, message: Tmessage<'_>) -> (Told, Packet) {
        self.session.submit(message.encode(Tag(7))).unwrap();
        let mut told = Told::new();
        loop {
            let packet = self.replies.recv_timeout(PATIENCE).unwrap();
            let header = packet.header().unwrap();
            assert_eq!(header.tag, Tag(7));
            if Kind(header.kind) != Kind::Rhint {
                return (told, packet);
            }
            assert!(packet.len() <= (64 << 10).min(MSIZE as usize));
            let hint = Hint::decode(&packet.head).unwrap();
            self.watched.lock().unwrap().insert(hint.dir, hint.watched);
            for entry in hint.entries {
                let seen = entry.node.map(|node| Seen {
                    valid: node.valid,
                    qid: node.qid,
                    attributes: node.attributes,
                    xattrs: node.xattrs.map(|names| names.iter().map(<[u8]>::to_vec).collect()),
                    watched: node.watched,
                });
                let old = told.insert((hint.dir, entry.name.to_vec()), seen);
                assert!(old.is_none(), "told twice");
            }
        }
    }

    fn walk(&self, newfid: u32, names: &[&[u8]]) -> (Told, Packet) {
        let names = Names::new(names).unwrap();
        self.call(Tmessage::Twalk { fid: Fid(0), newfid: Fid(newfid), names })
    }

    /// What the questions are answered with, of a fid.
    fn asked(&self, fid: u32) -> Seen {
        let (_, packet) = self.call(Tmessage::Tgetattr { fid: Fid(fid), mask: 0x3fff });
        let (_, reply) = Rmessage::decode(&packet).unwrap();
        let Rmessage::Rgetattr { valid, qid, attributes } = reply else { panic!("{reply:?}") };
        let list = Tmessage::Txattrwalk { fid: Fid(fid), newfid: Fid(9999), name: b"" };
        let (_, packet) = self.call(list);
        let xattrs = match Rmessage::decode(&packet).unwrap().1 {
            Rmessage::Rxattrwalk { size } => {
                let read = Tmessage::Tread { fid: Fid(9999), offset: 0, count: size as u32 };
                let list = self.call(read).1.body.concat();
                self.call(Tmessage::Tclunk { fid: Fid(9999) });
                let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
                Some(names.map(<[u8]>::to_vec).collect())
            }
            _ => None,
        };
        Seen { valid, qid, attributes, xattrs, watched: false }
    }

    /// The root's names, all of them read by one fid.
    fn list(&self, fid: u32) -> Told {
        self.walk(fid, &[]);
        self.call(Tmessage::Tlopen { fid: Fid(fid), flags: 0 });
        let mut told = Told::new();
        let mut offset = 0;
        loop {
            let (more, packet) =
                self.call(Tmessage::Treaddir { fid: Fid(fid), offset, count: MSIZE });
            told.extend(more);
            let data = packet.body.concat();
            if data.is_empty() {
                return told;
            }
            let mut from = transport::ninep::codec::Reader::new(&data);
            while !from.rest().is_empty() {
                let entry: transport::ninep::message::Entry<'_> = from.field().unwrap();
                offset = entry.offset;
            }
        }
    }

    /// What is taken back now, of names and folders.
    fn taken_back(&self) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        for (owner, packet) in self.workers.watches().drain() {
            assert_eq!(owner, self.session.owner());
            assert!(packet.len() <= MAX_FORGET);
            let records = decode_forget(&packet.head).unwrap();
            assert!(!records.is_empty(), "everything");
            let text = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
            all.extend(records.into_iter().map(|(dir, name)| (dir, text(name))));
        }
        all
    }
}

/// A folder with something of every kind.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "12345").unwrap();
    fs::write(at("linked"), "").unwrap();
    fs::hard_link(at("linked"), at("other")).unwrap();
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/inner"), "").unwrap();
    symlink("nowhere", at("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let name = |name: &str| {
        rustix::fs::setxattr(at(name), "user.test", b"v", rustix::fs::XattrFlags::empty())
    };
    if name("file").is_err() {
        eprintln!("no extended attributes here");
    }
    dir
}

/// Without what tells hints from answers.
fn plain(seen: &Option<Seen>) -> Option<Seen> {
    seen.clone().map(|seen| Seen { watched: false, ..seen })
}

#[test]
fn a_walk_tells_what_would_have_been_asked_next() {
    let dir = folder();
    let (client, attach) = Client::new(dir.path(), true);
    let root = client.asked(0);
    let told = attach.get(&(root.qid.path, Vec::new())).unwrap();
    assert_eq!(plain(told), Some(root.clone()));
    for (fid, name) in [(1, "file"), (2, "linked"), (3, "sub"), (4, "link"), (5, "fifo")] {
        let (told, _) = client.walk(fid, &[name.as_bytes()]);
        assert_eq!(told.len(), 1, "{name}");
        let told = told.get(&(root.qid.path, name.into())).unwrap();
        assert_eq!(plain(told), Some(client.asked(fid)), "{name}");
    }
    let (told, reply) = client.walk(6, &[b"none"]);
    assert_eq!(reply.header().unwrap().kind, Kind::Rlerror.0);
    assert_eq!(told.get(&(root.qid.path, b"none".to_vec())), Some(&None));
    let sub = client.asked(3).qid.path;
    let (told, _) = client.walk(7, &[b"sub", b"inner"]);
    let told: Vec<_> = told.into_keys().collect();
    assert!(
        told.contains(&(sub, b"inner".to_vec()))
            && told.contains(&(root.qid.path, b"sub".to_vec()))
    );
    // Nothing is told of what is above.
    let (told, _) = client.walk(8, &[b".."]);
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn the_names_of_a_folder_come_with_their_attributes() {
    let dir = folder();
    for n in 0..1000 {
        fs::write(dir.path().join(format!("file number {n}")), vec![b'x'; n]).unwrap();
    }
    let (client, _) = Client::new(dir.path(), true);
    let root = client.asked(0).qid.path;
    let told = client.list(1);
    assert_eq!(told.len(), 1000 + 6 + 1, "the folder itself too");
    for (fid, name) in ["file", "linked", "sub", "link", "fifo", "file number 7"].iter().enumerate()
    {
        let fid = 100 + fid as u32;
        client.walk(fid, &[name.as_bytes()]);
        let seen = told.get(&(root, name.as_bytes().to_vec())).unwrap();
        assert_eq!(plain(seen), Some(client.asked(fid)), "{name}");
        let watched = seen.as_ref().unwrap().watched;
        assert_eq!(watched, !["linked", "sub"].contains(name), "{name}");
    }
    assert_eq!(client.watched.lock().unwrap().get(&root), Some(&true));
}

#[test]
fn a_client_that_takes_no_hints_gets_none() {
    let dir = folder();
    let (client, told) = Client::new(dir.path(), false);
    assert!(
        told.is_empty() && client.walk(1, &[b"file"]).0.is_empty() && client.list(2).is_empty()
    );
    fs::write(dir.path().join("file"), "more").unwrap();
    assert!(client.workers.watches().fd().is_none());
}

#[test]
fn what_changes_is_taken_back_once() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    let (client, _) = Client::new(dir.path(), true);
    let root = client.asked(0).qid.path;
    let changes: [(&dyn Fn(), &[&str]); 8] = [
        (&|| fs::write(at("file"), "other").unwrap(), &["file"]),
        (&|| fs::write(at("new"), "").unwrap(), &["new"]),
        (&|| fs::remove_file(at("new")).unwrap(), &["new"]),
        (&|| fs::rename(at("file"), at("moved")).unwrap(), &["file", "moved"]),
        (&|| fs::rename(at("moved"), at("file")).unwrap(), &["file", "moved"]),
        (&|| fs::create_dir(at("made")).unwrap(), &["made"]),
        (&|| fs::remove_dir(at("made")).unwrap(), &["made"]),
        (
            &|| {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(at("fifo"), fs::Permissions::from_mode(0o600)).unwrap();
            },
            &["fifo"],
        ),
    ];
    for (fid, (change, names)) in changes.iter().enumerate() {
        let fid = fid as u32 * 10 + 10;
        client.list(fid);
        client.walk(fid + 1, &[b"new"]);
        client.walk(fid + 2, &[b"moved"]);
        client.walk(fid + 3, &[b"made"]);
        client.taken_back();
        change();
        let taken: Vec<String> = client
            .taken_back()
            .into_iter()
            .map(|(dir, name)| {
                assert_eq!(dir, root);
                name
            })
            .collect();
        for name in *names {
            assert!(taken.iter().any(|one| one == name), "{name} of {taken:?}");
        }
        // It has not been told of since.
        fs::write(at("file"), "once more").unwrap();
        client.taken_back();
        fs::write(at("file"), "and again").unwrap();
        assert_eq!(client.taken_back(), [], "{names:?}");
        for n in 0..4 {
            client.call(Tmessage::Tclunk { fid: Fid(fid + n) });
        }
    }
}

#[test]
fn a_folder_that_goes_takes_its_names_along() {
    let dir = folder();
    let (client, _) = Client::new(dir.path(), true);
    client.walk(1, &[b"sub"]);
    let sub = client.asked(1).qid.path;
    client.call(Tmessage::Tlopen { fid: Fid(1), flags: 0 });
    client.call(Tmessage::Treaddir { fid: Fid(1), offset: 0, count: MSIZE });
    client.call(Tmessage::Tclunk { fid: Fid(1) });
    fs::remove_dir_all(dir.path().join("sub")).unwrap();
    let taken = client.taken_back();
    assert!(taken.contains(&(sub, "inner".into())), "{taken:?}");
    // Its watch ends with the inode, which a worker holds for a moment longer than its reply takes.
    let until = Instant::now() + PATIENCE;
    while client.workers.watches().is_watched(client.session.owner(), sub) {
        assert!(Instant::now() < until, "it is watched still");
        client.taken_back();
    }
}

#[test]
fn watches_are_bounded_and_end_with_their_session() {
    const FOLDERS: usize = 4200;
    let dir = tempfile::tempdir().unwrap();
    for n in 0..FOLDERS {
        fs::create_dir(dir.path().join(n.to_string())).unwrap();
        fs::write(dir.path().join(n.to_string()).join("f"), "").unwrap();
    }
    let (client, _) = Client::new(dir.path(), true);
    let owner = client.session.owner();
    let mut paths = Vec::new();
    for n in 0..FOLDERS {
        let name = n.to_string();
        let (told, _) = client.walk(1, &[name.as_bytes(), b"f"]);
        paths.extend(told.into_keys().filter(|(_, name)| name == b"f").map(|(dir, _)| dir));
        client.call(Tmessage::Tclunk { fid: Fid(1) });
    }
    let watches = client.workers.watches();
    let count = |owner| paths.iter().filter(|path| watches.is_watched(owner, **path)).count();
    assert!((1..=4096).contains(&count(owner)), "{}", count(owner));
    assert!(watches.is_watched(owner, *paths.last().unwrap()), "the latest is there");
    // What is watched no more was taken back: all of it, where it is much.
    let records: usize = watches.drain().iter().map(|(_, packet)| packet.len()).sum();
    assert!(records > 0);
    client.session.close();
    assert_eq!(count(owner), 0);
    fs::write(dir.path().join("4199/f"), "more").unwrap();
    assert_eq!(client.workers.watches().drain(), []);
}

#[test]
fn two_sessions_hear_each_for_itself() {
    let dir = folder();
    let workers = Workers::new(Limits::default());
    let (one, _) = Client::with(dir.path(), true, Arc::clone(&workers));
    let (two, _) = Client::with(dir.path(), true, Arc::clone(&workers));
    one.list(1);
    two.list(1);
    fs::write(dir.path().join("file"), "other").unwrap();
    let mut owners: Vec<u64> = workers.watches().drain().iter().map(|(owner, _)| *owner).collect();
    owners.sort_unstable();
    let mut expected = [one.session.owner(), two.session.owner()];
    expected.sort_unstable();
    assert_eq!(owners, expected);
    one.session.close();
    two.list(2);
    fs::write(dir.path().join("file"), "again").unwrap();
    let owners: Vec<u64> = workers.watches().drain().iter().map(|(owner, _)| *owner).collect();
    assert_eq!(owners, [two.session.owner()]);
}
