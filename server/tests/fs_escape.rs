//! A client that wants out of its folder, with somebody on the server's side who helps: symbolic
//! links and folders are swapped under the server's hands while it walks, opens, creates, renames
//! and removes. Nothing outside is ever read or changed.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

mod fs_client;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fs_client::{Client, ROOT};
use libc::{O_CREAT, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use transport::ninep::message::{AT_REMOVEDIR, SetAttributes, Time, setattr};
use transport::ninep::{QidKind, Tmessage};

/// How long each race runs.
const RACE: Duration = Duration::from_millis(2000);

const SECRET: &[u8] = b"secret of the outside";

/// A granted folder beside one that is not.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let scene = Scene { dir };
        fs::create_dir_all(scene.outside().join("sub")).unwrap();
        fs::create_dir(scene.inside()).unwrap();
        for name in ["f", "sub/f"] {
            let path = scene.outside().join(name);
            fs::write(&path, SECRET).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        scene
    }

    fn base(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    fn inside(&self) -> PathBuf {
        self.base().join("inside")
    }

    fn outside(&self) -> PathBuf {
        self.base().join("outside")
    }

    /// All that can be seen of the outside: names, modes, contents, change times.
    fn fingerprint(&self) -> Vec<(PathBuf, u32, i64, i64, Vec<u8>)> {
        use std::os::unix::fs::MetadataExt;
        let mut seen = Vec::new();
        let mut todo = vec![self.outside()];
        while let Some(path) = todo.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if meta.is_dir() {
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            seen.push((path, meta.mode(), meta.ctime(), meta.ctime_nsec(), content));
        }
        seen.sort();
        seen
    }
}

/// Exchanges two names as fast as it can until told to stop; counts.
fn swap(a: PathBuf, b: PathBuf, stop: Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let mut swaps = 0;
        while !stop.load(Ordering::Relaxed) {
            renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
            swaps += 1;
        }
        swaps
    })
}

/// Runs `attempt` for as long as a race lasts, while `a` and `b` are exchanged.
fn race(a: &Path, b: &Path, mut attempt: impl FnMut()) -> (u64, u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = swap(a.to_path_buf(), b.to_path_buf(), stop.clone());
    let until = Instant::now() + RACE;
    let mut attempts = 0;
    while Instant::now() < until {
        attempt();
        attempts += 1;
    }
    stop.store(true, Ordering::Relaxed);
    (attempts, swapper.join().unwrap())
}

#[test]
fn a_folder_that_becomes_a_link_under_a_walk_leads_nowhere() {
    let scene = Scene::new();
    let (d, l) = (scene.inside().join("d"), scene.inside().join("l"));
    fs::create_dir_all(d.join("sub")).unwrap();
    fs::write(d.join("f"), "inside").unwrap();
    fs::write(d.join("sub/f"), "inside").unwrap();
    symlink(scene.outside(), &l).unwrap();
    let before = scene.fingerprint();
    let client = Client::of(&scene.inside());
    let reached = AtomicU64::new(0);
    let check = |path: &str| {
        let Ok(fid) = client.walk(path) else { return };
        if client.lopen(fid, O_RDONLY).is_ok() {
            let content = client.read(fid, 0, 100).unwrap();
            assert_eq!(content, b"inside", "{path}");
            reached.fetch_add(1, Ordering::Relaxed);
        }
        client.clunk(fid).unwrap();
    };
    let (attempts, swaps) = race(&d, &l, || {
        check("d/f");
        check("l/f");
        check("d/sub/f");
        // A fid from before the swap.
        if let Ok(d) = client.walk("d") {
            for _ in 0..3 {
                if let Ok(f) = client.walk_from(d, "sub/f") {
                    if client.lopen(f, O_RDONLY).is_ok() {
                        assert_eq!(client.read(f, 0, 100).unwrap(), b"inside");
                    }
                    client.clunk(f).unwrap();
                }
                if client.lcreate(client.walk_from(d, "").unwrap(), b"new", O_RDWR, 0o600).is_ok() {
                    client.unlinkat(d, b"new", 0).ok();
                }
                client.mkdir(d, b"made", 0o700).ok();
                client.unlinkat(d, b"made", AT_REMOVEDIR).ok();
                client.symlink(d, b"planted", b"/etc").ok();
                client.unlinkat(d, b"planted", 0).ok();
                client.unlinkat(d, b"f-none", 0).ok();
            }
            client.clunk(d).unwrap();
        }
    });
    assert!(reached.load(Ordering::Relaxed) > 0 && attempts > 10 && swaps > 10);
    assert_eq!(scene.fingerprint(), before);
}

#[test]
fn a_file_that_becomes_a_link_is_neither_opened_nor_changed() {
    let scene = Scene::new();
    let (f, l) = (scene.inside().join("f"), scene.inside().join("l"));
    fs::write(&f, "inside").unwrap();
    symlink(scene.outside().join("f"), &l).unwrap();
    let before = scene.fingerprint();
    let client = Client::of(&scene.inside());
    let (_, own) = client.getattr(ROOT).unwrap();
    let mut opened = 0;
    let (attempts, swaps) = race(&f, &l, || {
        for flags in [O_RDONLY, O_RDWR, O_WRONLY | O_TRUNC, O_RDONLY | O_TRUNC] {
            if let Ok(fid) = client.open("f", flags) {
                opened += 1;
                if flags != O_WRONLY | O_TRUNC {
                    let content = client.read(fid, 0, 100).unwrap();
                    assert!(!content.starts_with(b"secret"), "{content:?}");
                }
                if flags == O_RDWR {
                    client.write(fid, 0, b"changed").unwrap();
                }
                client.clunk(fid).unwrap();
            }
        }
        if let Ok(fid) = client.create("", "f", O_RDWR | O_CREAT | O_TRUNC, 0o600) {
            client.write(fid, 0, b"changed").unwrap();
            client.clunk(fid).unwrap();
        }
        // By name only: mode, size, times, owner, attributes, links.
        if let Ok(fid) = client.walk("f") {
            // What has another name by the time that it is looked for again is stale.
            let attributes = match client.getattr(fid) {
                Ok((qid, attributes)) => {
                    let link = qid.kind == QidKind::SYMLINK;
                    assert!(link || attributes.mode & 0o777 != 0o640);
                    attributes
                }
                Err(errno) => {
                    assert_eq!(errno, libc::ESTALE);
                    own
                }
            };
            client.chmod(fid, 0o604).ok();
            client.truncate(fid, 3).ok();
            let times = SetAttributes {
                valid: setattr::MTIME | setattr::MTIME_SET | setattr::UID | setattr::GID,
                mtime: Time { sec: 1, nsec: 1 },
                uid: attributes.uid,
                gid: attributes.gid,
                ..Default::default()
            };
            client.setattr(fid, times).ok();
            client.set_xattr(fid, b"user.planted", b"x", 0, 1).ok();
            client.xattr(fid, b"").ok();
            if client.link(fid, ROOT, b"hard").is_ok() {
                let hard = fs::symlink_metadata(scene.inside().join("hard")).unwrap();
                assert_ne!(hard.permissions().mode() & 0o777, 0o640);
                client.unlinkat(ROOT, b"hard", 0).unwrap();
            }
            client.clunk(fid).unwrap();
        }
    });
    assert!(opened > 0 && attempts > 10 && swaps > 10, "{opened} {attempts} {swaps}");
    assert_eq!(scene.fingerprint(), before);
}

#[test]
fn a_folder_that_leaves_while_it_is_walked_takes_nobody_along() {
    let scene = Scene::new();
    // `d` comes and goes between the granted folder and one beside it.
    let beside = scene.base().join("beside");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("secret"), SECRET).unwrap();
    fs::create_dir_all(scene.inside().join("a/d/e")).unwrap();
    fs::create_dir(beside.join("d")).unwrap();
    fs::write(scene.inside().join("a/top"), "inside").unwrap();
    let before = scene.fingerprint();
    let client = Client::of(&scene.inside());
    let inode = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).unwrap().ino()
    };
    let forbidden = [inode(&beside), inode(&scene.base()), inode(&scene.outside())];
    let (attempts, swaps) = race(&scene.inside().join("a/d"), &beside.join("d"), || {
        let Ok(e) = client.walk("a/d/e") else { return };
        for up in 1..8 {
            let names = vec![&b".."[..]; up];
            let fid = client.next_fid();
            if let Ok(qids) = client.walk_raw(e, fid, &names) {
                for qid in &qids {
                    assert!(!forbidden.contains(&qid.path), "{up} up from a/d/e");
                }
                if qids.len() == up {
                    for name in [&b"secret"[..], b"outside", b"beside", b"f"] {
                        let below = client.next_fid();
                        assert!(client.walk_raw(fid, below, &[name]).is_err());
                    }
                    client.clunk(fid).unwrap();
                }
            }
        }
        client.clunk(e).unwrap();
    });
    assert!(attempts > 10 && swaps > 10, "{attempts} {swaps}");
    assert_eq!(scene.fingerprint(), before);
}

#[test]
fn names_with_a_path_in_them_reach_nothing() {
    let scene = Scene::new();
    fs::create_dir(scene.inside().join("d")).unwrap();
    fs::write(scene.inside().join("f"), "inside").unwrap();
    symlink("../../outside", scene.inside().join("d/rel")).unwrap();
    symlink(scene.outside(), scene.inside().join("abs")).unwrap();
    symlink("/proc/self/root", scene.inside().join("magic")).unwrap();
    let before = scene.fingerprint();
    let client = Client::of(&scene.inside());
    let absolute = fs_client::bytes(&scene.outside().join("f")).to_vec();
    let f = client.walk("f").unwrap();
    for name in [&b"../outside/f"[..], b"../outside", b"d/../../outside/f", &absolute, b"d/rel/f"] {
        let fid = client.next_fid();
        assert_eq!(client.walk_raw(ROOT, fid, &[name]), Err(libc::EINVAL));
        let here = client.walk("").unwrap();
        assert_eq!(client.lcreate(here, name, O_RDWR | O_TRUNC, 0o666), Err(libc::EINVAL));
        assert_eq!(client.unlinkat(ROOT, name, 0), Err(libc::EINVAL));
        assert_eq!(client.renameat((ROOT, name), (ROOT, b"got")), Err(libc::EINVAL));
        assert_eq!(client.renameat((ROOT, b"f"), (ROOT, name)), Err(libc::EINVAL));
        assert_eq!(client.link(f, ROOT, name), Err(libc::EINVAL));
    }
    // Through links: none is ever followed.
    for path in ["d/rel", "abs", "magic"] {
        let link = client.walk(path).unwrap();
        let fid = client.next_fid();
        assert_eq!(client.walk_raw(link, fid, &[b"f"]), Err(libc::ENOTDIR));
        assert_eq!(client.walk_raw(link, fid, &[b".."]), Err(libc::ENOTDIR));
        assert_eq!(client.lopen(link, O_RDONLY), Err(libc::ELOOP));
        assert_eq!(client.mkdir(link, b"x", 0o700), Err(libc::ENOTDIR));
        assert_eq!(client.unlinkat(link, b"f", 0), Err(libc::ENOTDIR));
        assert_eq!(client.renameat((link, b"f"), (ROOT, b"got")), Err(libc::ENOTDIR));
        assert_eq!(client.chmod(link, 0o777), Err(libc::EOPNOTSUPP));
    }
    // Above the root is the root.
    let root = client.getattr(ROOT).unwrap().0;
    let up = client.next_fid();
    let qids = client.walk_raw(ROOT, up, &[&b".."[..]; 16]).unwrap();
    assert!(qids.iter().all(|qid| qid.path == root.path));
    assert_eq!(client.unlinkat(up, b"inside", AT_REMOVEDIR), Err(libc::ENOENT));
    assert_eq!(client.ok(Tmessage::Tremove { fid: up }), Err(libc::EBUSY));
    assert_eq!(scene.fingerprint(), before);
}

#[test]
fn a_descriptor_opened_again_is_not_taken_for_another() {
    // As for a fid whose descriptor went to others: every step is opened anew, while names change.
    let scene = Scene::new();
    let (d, l) = (scene.inside().join("d"), scene.inside().join("l"));
    fs::create_dir_all(d.join("sub")).unwrap();
    fs::write(d.join("sub/f"), "inside").unwrap();
    symlink(scene.outside(), &l).unwrap();
    for i in 0..32 {
        fs::create_dir(scene.inside().join(format!("n{i}"))).unwrap();
    }
    let before = scene.fingerprint();
    let limits = server::fs::Limits { handles: 2, ..Default::default() };
    let export = server::fs::Export::open(&scene.inside(), false).unwrap();
    let client = Client::with(export, server::fs::Workers::new(limits));
    let file = client.walk("d/sub/f").unwrap();
    let sub = client.walk("d/sub").unwrap();
    let (mut served, mut stale, mut turn) = (0, 0, 0);
    let (_, swaps) = race(&d, &l, || {
        for _ in 0..4 {
            turn = (turn + 1) % 32;
            let pushed = client.walk(&format!("n{turn}")).unwrap();
            client.clunk(pushed).unwrap();
        }
        match client.getattr(file) {
            Ok((_, attributes)) => {
                assert_eq!(attributes.size, 6);
                served += 1;
            }
            Err(errno) => {
                assert!(matches!(errno, libc::ESTALE | libc::ENOENT | libc::ENOTDIR), "{errno}");
                stale += 1;
            }
        }
        if let Ok(fid) = client.walk_from(sub, "f") {
            if client.lopen(fid, O_RDWR).is_ok() {
                assert_eq!(client.read(fid, 0, 99).unwrap(), b"inside");
            }
            client.clunk(fid).unwrap();
        }
        client.mkdir(sub, b"made", 0o700).ok();
        client.unlinkat(sub, b"made", AT_REMOVEDIR).ok();
    });
    assert!(served > 0 && stale > 0 && swaps > 10, "{served} {stale} {swaps}");
    assert_eq!(scene.fingerprint(), before);
}
