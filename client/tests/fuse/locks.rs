//! Locks, between mounts, processes and the server's own; and waits that are given up.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::place::{Place, started};

/// Takes a lock of the kind that is named, says so, and holds it until its stdin ends. `wait` waits
/// for it and says what came of that.
const HOLDER: &str = r"
import fcntl, signal, sys
class Alarm(Exception): pass
def alarm(*_): raise Alarm()
signal.signal(signal.SIGALRM, alarm)
name, kind, how = sys.argv[1:4]
file = open(name, 'r+b')
lock = fcntl.flock if kind == 'flock' else fcntl.lockf
flags = fcntl.LOCK_SH if how.startswith('shared') else fcntl.LOCK_EX
if not how.endswith('wait'):
    flags |= fcntl.LOCK_NB
else:
    print('waits')
try:
    lock(file, flags)
    print('held')
except BlockingIOError:
    print('refused')
except Alarm:
    print('alarm')
sys.stdin.read()
";

fn holder(file: &Path, kind: &str, how: &str) -> crate::place::Started {
    started(HOLDER, &[file, Path::new(kind), Path::new(how)])
}

#[test]
fn both_kinds_of_lock_exclude_everybody_else() {
    let place = Place::new();
    let mounts = [place.mount("a", &[]), place.mount("b", &[])];
    fs::write(place.there("x"), "text").unwrap();
    let (here, other, there) = (mounts[0].at("x"), mounts[1].at("x"), place.there("x"));
    // A flock(2) here is fcntl(2)'s there, as for v9fs: 9P knows no other.
    for kind in ["flock", "posix"] {
        let mut first = holder(&here, kind, "exclusive");
        assert_eq!(first.line(), "held", "{kind}");
        for (path, how) in [(&here, kind), (&other, kind), (&there, "posix")] {
            assert_eq!(holder(path, how, "exclusive").line(), "refused", "{kind} {path:?}");
            assert_eq!(holder(path, how, "shared").line(), "refused", "{kind} {path:?}");
        }
        // Who holds it is killed: the lock goes.
        first.signal(Signal::KILL);
        first.ended();
        let mut shared = holder(&other, kind, "shared-wait");
        assert_eq!((shared.line(), shared.line()), ("waits".into(), "held".into()));
        for (path, how) in [(&here, kind), (&other, kind), (&there, "posix")] {
            assert_eq!(holder(path, how, "shared").line(), "held", "{kind} {path:?}");
        }
        assert_eq!(holder(&here, kind, "exclusive").line(), "refused");
        drop(shared);
        let mut local = holder(&there, "posix", "exclusive-wait");
        assert_eq!((local.line(), local.line()), ("waits".into(), "held".into()));
        assert_eq!(holder(&here, kind, "exclusive").line(), "refused");
    }
}

#[test]
fn who_waits_for_a_lock_gets_it_when_it_is_let_go() {
    let place = Place::new();
    let mounts = [place.mount("a", &[]), place.mount("b", &[])];
    fs::write(place.there("x"), "text").unwrap();
    for kind in ["flock", "posix"] {
        let mut first = holder(&mounts[0].at("x"), kind, "exclusive");
        assert_eq!(first.line(), "held");
        let mut second = holder(&mounts[1].at("x"), kind, "exclusive-wait");
        assert_eq!(second.line(), "waits");
        std::thread::sleep(Duration::from_millis(200));
        drop(first);
        assert_eq!(second.line(), "held");
    }
}

#[test]
fn a_wait_for_a_lock_ends_with_a_signal() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    fs::write(place.there("x"), "text").unwrap();
    for kind in ["flock", "posix"] {
        let mut first = holder(&mount.at("x"), kind, "exclusive");
        assert_eq!(first.line(), "held");
        // One that is handled, and one that ends the process.
        let mut handles = holder(&mount.at("x"), kind, "exclusive-wait");
        let mut dies = holder(&mount.at("x"), kind, "exclusive-wait");
        assert_eq!((handles.line(), dies.line()), ("waits".into(), "waits".into()));
        std::thread::sleep(Duration::from_millis(200));
        let since = Instant::now();
        handles.signal(Signal::ALARM);
        assert_eq!(handles.line(), "alarm", "{kind}");
        dies.signal(Signal::TERM);
        dies.ended();
        assert!(since.elapsed() < Duration::from_secs(10));
        // Nobody has it from beyond the grave.
        drop(first);
        assert_eq!(holder(&mount.at("x"), kind, "exclusive").line(), "held", "{kind}");
    }
}

#[test]
fn ranges_are_kept_apart_and_their_owners_told() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    fs::write(place.there("x"), "0123456789").unwrap();
    let program = r"
import fcntl, os, struct, sys
path = sys.argv[1]
def ask(file, start, length):
    raw = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, start, length, 0)
    kind, _, start, length, pid = struct.unpack('hhqqi4x', fcntl.fcntl(file, fcntl.F_GETLK, raw))
    return None if kind == fcntl.F_UNLCK else (kind, start, length, pid)
file = open(path, 'r+b')
fcntl.lockf(file, fcntl.LOCK_EX, 3, 2)
fcntl.lockf(file, fcntl.LOCK_SH, 0, 8)
ready, go = os.pipe()
child = os.fork()
if child == 0:
    other = open(path, 'r+b')
    assert ask(other, 0, 2) is None
    assert ask(other, 0, 3) == (fcntl.F_WRLCK, 2, 3, os.getppid()), ask(other, 0, 3)
    assert ask(other, 5, 3) is None
    assert ask(other, 7, 0) == (fcntl.F_RDLCK, 8, 0, os.getppid()), ask(other, 7, 0)
    fcntl.lockf(other, fcntl.LOCK_SH | fcntl.LOCK_NB, 0, 8)
    fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 0)
    # A process's locks go with any of its descriptors.
    open(path, 'r+b').close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
fcntl.lockf(file, fcntl.LOCK_UN)
print('done')
";
    assert_eq!(started(program, &[&mount.at("x")]).line(), "done");
}

#[test]
fn a_lock_is_let_go_with_its_last_descriptor() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    fs::write(place.there("x"), "text").unwrap();
    let open = || OpenOptions::new().read(true).write(true).open(mount.at("x")).unwrap();
    let take = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive);
    let (first, second) = (open(), open());
    take(&first).unwrap();
    let again = first.try_clone().unwrap();
    assert_eq!(take(&second), Err(Errno::AGAIN));
    drop(first);
    assert_eq!(take(&second), Err(Errno::AGAIN));
    drop(again);
    crate::place::within(|| take(&second).ok());
}
