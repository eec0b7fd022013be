//! The sandbox through the real binary: what it forbids, what it lets through, how its two processes
//! end, and where it is refused.
//!
//! Each test runs as the user that runs the tests; as root it also runs as the user 65534, for whom
//! all of it is made. Leaves out mounts below the folder, which need a right to mount: the client's
//! kernel tests have them.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use transport::id::{Fid, Msize, StreamId, Tag};
use transport::mux::preface::{
    Answer, Capabilities, ClientHello, Nonce, Preface, PrefaceReader, Role, Taken,
};
use transport::mux::{Authorisation, Config, Connection, Event, Open, Side};
use transport::ninep::message::{Names, VERSION};
use transport::ninep::{Kind, Tmessage};
use transport::relay::class::class;

/// A bound on hangs, never part of a verdict.
const PATIENCE: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;

/// As whom a service runs.
#[derive(Clone, Copy, PartialEq, Debug)]
enum User {
    Same,
    Nobody,
}

fn users() -> Vec<User> {
    if geteuid().is_root() { vec![User::Same, User::Nobody] } else { vec![User::Same] }
}

/// Folders of one test.
struct Place {
    folder: tempfile::TempDir,
    user: User,
    /// Whether services run where no user namespace can be made.
    narrow: bool,
}

impl Place {
    fn new(user: User) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder, user, narrow: false };
        for name in ["run", "a", "b", "bin"] {
            fs::create_dir(place.at(name)).unwrap();
            place.give(name, 0o700);
        }
        fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // By another process: written by this one it would be busy in those that other tests fork.
        let copy = ["cp", env!("CARGO_BIN_EXE_qvm-folder-server"), "bin"];
        let copied =
            Command::new(copy[0]).args(&copy[1..]).current_dir(place.folder.path()).status();
        assert!(copied.unwrap().success());
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// Where another user can start it from: the folder of the tests may be closed to them.
    fn program(&self) -> PathBuf {
        self.at("bin/qvm-folder-server")
    }

    fn give(&self, name: &str, mode: u32) {
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
        if self.user == User::Nobody {
            std::os::unix::fs::chown(self.at(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
        self.give(name, 0o600);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(if self.narrow { "unshare".into() } else { self.program() });
        if self.narrow {
            command.args(["--user", "--map-root-user", "sh", "-c", NARROW]).arg(self.program());
        }
        command.args(arguments).env("XDG_RUNTIME_DIR", self.at("run")).current_dir("/");
        if self.user == User::Nobody {
            // std drops the other groups where root gives a user.
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn sockets(&self) -> usize {
        fs::read_dir(self.at("run/qubes-shared-folders/server")).map_or(0, Iterator::count)
    }
}

/// In a user namespace of its own: no further one, and no right to do without.
const NARROW: &str = "echo 0 >/proc/sys/user/max_user_namespaces && \
                      exec setpriv --bounding-set=-all --inh-caps=-all \"$0\" \"$@\"";

fn in_time<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(got) = get() {
            return got;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn check(place: &Place) -> Output {
    let output = place.command(&["--check-sandbox"]).arg(place.at("a")).output().unwrap();
    println!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[test]
fn what_must_fail_fails_in_every_kind_that_can_be_had() {
    for user in users() {
        let place = Place::new(user);
        let output = check(&place);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("FAILED"));
        for kind in ["namespaces", "landlock"] {
            for (access, some) in [
                ("read-write", "ok      writing a file, with its modes: works"),
                ("read-only", "ok      making a file: "),
            ] {
                let section = text.split_once(&format!("{kind}, {access}:\n")).unwrap().1;
                let section: Vec<_> =
                    section.lines().take_while(|line| line.starts_with(' ')).collect();
                if section.iter().any(|line| line.starts_with("  none")) {
                    eprintln!("no {kind} here");
                    continue;
                }
                assert!(section.len() > 50, "{kind}, {access}: {}", section.len());
                assert!(section.iter().any(|line| line.contains(some)), "{kind}, {access}");
                for forbidden in
                    ["making the mount writable", "a Unix socket", "tracing", "executing"]
                {
                    assert!(
                        section.iter().any(|line| line.contains(&format!("ok      {forbidden}: ")))
                    );
                }
            }
        }
        assert_eq!(fs::read_dir(place.at("a")).unwrap().count(), 0, "it left something behind");
    }
}

/// The client end of a call, played by the test.
struct Channel {
    child: Child,
    socket: UnixStream,
    client: Connection,
    start: Instant,
    nonce: Nonce,
    replies: Vec<Vec<u8>>,
    long: Vec<u8>,
    opened: bool,
    /// Why a stream was not opened.
    refused: Option<String>,
}

/// Starts the service for a folder of `place`, and sends the preface.
fn call(place: &Place, folder: &str, read_only: bool, options: &[&str], role: Role) -> Channel {
    let (near, far) = UnixStream::pair().unwrap();
    let folder = policy::Folder::parse(place.at(folder).as_os_str()).unwrap();
    let service = if read_only { "sharedfolders.MountReadOnly" } else { "sharedfolders.Mount" };
    let child = place
        .command(options)
        .env("QREXEC_REMOTE_DOMAIN", "work")
        .env("QREXEC_SERVICE_FULL_NAME", format!("{service}+{}", folder.to_argument()))
        .stdin(Stdio::from(OwnedFd::from(far.try_clone().unwrap())))
        .stdout(Stdio::from(OwnedFd::from(far)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = Connection::new(Side::Client, Config::default());
    let hello =
        ClientHello { capabilities: Capabilities::OURS, limits: Config::default().limits(), role };
    (&near).write_all(&hello.encode()).unwrap();
    Channel {
        child,
        socket: near,
        client,
        start: Instant::now(),
        nonce: Nonce([0; 16]),
        replies: Vec::new(),
        long: Vec::new(),
        opened: false,
        refused: None,
    }
}

impl Channel {
    /// A channel for a folder of `place`.
    fn open(place: &Place, folder: &str, read_only: bool, options: &[&str]) -> Channel {
        let mut channel = call(place, folder, read_only, options, Role::Channel);
        match channel.answer() {
            Answer::Taken(hello) => {
                assert_eq!(hello.taken, Taken::Channel);
                channel.nonce = hello.nonce;
                channel.client.establish(Duration::ZERO, &hello.limits);
            }
            Answer::Refused(reason) => panic!("{}: {}", reason.text, channel.stderr()),
        }
        channel
    }

    fn answer(&mut self) -> Answer {
        let mut reader = PrefaceReader::<Answer>::default();
        loop {
            let mut byte = [0];
            self.socket.read_exact(&mut byte).unwrap_or_else(|_| panic!("no answer"));
            if let Some((answer, _)) = reader.feed(Bytes::copy_from_slice(&byte)).unwrap() {
                return answer;
            }
        }
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// A stream with a 9P session, by that permission.
    fn stream(&mut self, authorisation: Authorisation) -> StreamId {
        let msize = Msize::MAX.bytes();
        let stream = self.client.open(Open { msize, flags: 0, authorisation }).unwrap();
        while !self.opened {
            self.turn(stream);
        }
        self.opened = false;
        self.ask(stream, Tmessage::Tversion { msize, version: VERSION });
        let attach =
            Tmessage::Tattach { fid: ROOT, afid: Fid::NONE, uname: b"", aname: b"", n_uname: 0 };
        self.ask(stream, attach);
        stream
    }

    /// Sends a message and gives the reply without its size; its first byte is its type.
    fn ask(&mut self, stream: StreamId, message: Tmessage<'_>) -> Vec<u8> {
        let packet = message.encode(Tag(0));
        let lane = class(Kind(packet.head[4]), packet.len());
        self.client.start(stream, lane, packet.len() as u32).unwrap();
        for piece in packet.pieces() {
            self.client.extend(stream, piece.clone()).unwrap();
        }
        loop {
            if let Some(reply) = self.replies.pop() {
                return reply[4..].to_vec();
            }
            self.turn(stream);
        }
    }

    /// Sends what there is to send, and waits for something to come in.
    fn turn(&mut self, stream: StreamId) {
        let now = self.start.elapsed();
        let mut pieces = Vec::new();
        self.client.poll_transmit(now, usize::MAX, &mut pieces);
        for piece in pieces {
            self.socket.write_all(&piece).unwrap();
        }
        let mut buffer = vec![0; 65536];
        let count = self.socket.read(&mut buffer).unwrap();
        assert!(count > 0, "the channel ended: {}", self.stderr());
        self.client.handle_input(now, Bytes::copy_from_slice(&buffer[..count])).unwrap();
        while let Some(event) = self.client.poll_event() {
            self.hear(stream, event);
        }
        assert_eq!(self.refused, None);
    }

    fn hear(&mut self, stream: StreamId, event: Event) {
        let taken = match event {
            Event::Message { data, .. } => {
                let whole: Vec<u8> = data.into_iter().flat_map(|piece| piece.to_vec()).collect();
                self.replies.push(whole);
                self.replies.last().unwrap().len()
            }
            Event::More { data, .. } => {
                self.long.extend_from_slice(&data);
                let size = u32::from_le_bytes(self.long[..4].try_into().unwrap()) as usize;
                if self.long.len() == size {
                    self.replies.push(std::mem::take(&mut self.long));
                }
                data.len()
            }
            Event::Opened { .. } => {
                self.opened = true;
                0
            }
            Event::Refused { reason, .. } | Event::Closed { reason, .. } => {
                self.refused = Some(reason.to_string());
                0
            }
            _ => 0,
        };
        if taken > 0 {
            self.client.consumed(stream, taken as u32);
        }
    }

    /// The file's bytes, by a walk, an open, a read and a clunk.
    fn read(&mut self, stream: StreamId, name: &[u8]) -> Result<Vec<u8>, u32> {
        let names = Names::new(&[name]).unwrap();
        good(self.ask(stream, Tmessage::Twalk { fid: ROOT, newfid: FILE, names }))?;
        let opened = good(self.ask(stream, Tmessage::Tlopen { fid: FILE, flags: 0 }));
        let read = opened.and_then(|_| {
            good(self.ask(stream, Tmessage::Tread { fid: FILE, offset: 0, count: 1000 }))
        });
        self.ask(stream, Tmessage::Tclunk { fid: FILE });
        // type[1] tag[2] count[4]
        read.map(|reply| reply[7..].to_vec())
    }

    /// The mode, user and group of the root's entry.
    fn owner(&mut self, stream: StreamId, name: &[u8]) -> (u32, u32, u32) {
        let names = Names::new(&[name]).unwrap();
        self.ask(stream, Tmessage::Twalk { fid: ROOT, newfid: FILE, names });
        let reply = good(self.ask(stream, Tmessage::Tgetattr { fid: FILE, mask: 0x7ff })).unwrap();
        self.ask(stream, Tmessage::Tclunk { fid: FILE });
        // type[1] tag[2] valid[8] qid[13] mode[4] uid[4] gid[4]
        let number = |at: usize| u32::from_le_bytes(reply[at..at + 4].try_into().unwrap());
        (number(24), number(28), number(32))
    }

    /// The service's processes: the keeper, and the one that it keeps.
    fn pids(&self) -> (Pid, Option<Pid>) {
        let keeper = Pid::from_child(&self.child);
        let children =
            format!("/proc/{}/task/{}/children", keeper.as_raw_nonzero(), keeper.as_raw_nonzero());
        let children = fs::read_to_string(children).unwrap();
        (
            keeper,
            children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?)),
        )
    }

    /// Waits for the service's end, without closing anything.
    fn ended(&mut self) -> std::process::ExitStatus {
        in_time("the service's end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A reply, or the errno that it is.
fn good(reply: Vec<u8>) -> Result<Vec<u8>, u32> {
    const RLERROR: u8 = 7;
    match reply[0] {
        RLERROR => Err(u32::from_le_bytes(reply[3..7].try_into().unwrap())),
        _ => Ok(reply),
    }
}

const ROOT: Fid = Fid(0);
const FILE: Fid = Fid(1);

/// The ways of being confined that there are here, as options.
const KINDS: [&[&str]; 2] = [&["--sandbox", "namespaces"], &["--sandbox", "landlock"]];

fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

#[test]
fn a_folder_is_served_from_within() {
    for user in users() {
        for options in KINDS {
            let place = Place::new(user);
            place.write("a/file", "text");
            let mut channel = Channel::open(&place, "a", false, options);
            let stream = channel.stream(Authorisation::Own);
            assert_eq!(channel.read(stream, b"file").unwrap(), b"text");
            let name = b"new";
            let walk = Tmessage::Twalk { fid: ROOT, newfid: FILE, names: Names::new(&[]).unwrap() };
            good(channel.ask(stream, walk)).unwrap();
            let create =
                Tmessage::Tlcreate { fid: FILE, name, flags: 2, mode: 0o4711, gid: u32::MAX };
            good(channel.ask(stream, create)).unwrap();
            channel.ask(stream, Tmessage::Tclunk { fid: FILE });
            let made = fs::metadata(place.at("a/new")).unwrap();
            assert_eq!(made.mode() & 0o7777, 0o4711);
            let (_, confined) = channel.pids();
            let confined = confined.unwrap().as_raw_nonzero();
            let status = fs::read_to_string(format!("/proc/{confined}/status")).unwrap();
            for line in [
                "NoNewPrivs:\t1",
                "Seccomp:\t2",
                "CapEff:\t0000000000000000",
                "CapBnd:\t0000000000000000",
            ] {
                // An ordinary user outside a namespace of its own cannot empty the bounding set.
                let skip =
                    line.starts_with("CapBnd") && user == User::Nobody && options[1] == "landlock";
                assert!(skip || status.lines().any(|is| is == line), "{line} not in {status}");
            }
            if options[1] == "namespaces" {
                assert_eq!(fs::read_dir(format!("/proc/{confined}/root")).unwrap().count(), 0);
            }
        }
    }
}

#[test]
fn other_owners_are_nobody_to_an_ordinary_user() {
    if !geteuid().is_root() {
        eprintln!("only root can give a file to another user");
        return;
    }
    let place = Place::new(User::Nobody);
    let owned = |name: &str, uid: u32| {
        place.write(name, "");
        std::os::unix::fs::chown(place.at(name), Some(uid), Some(uid)).unwrap();
    };
    // The user 65534 itself would not be told from others.
    owned("a/other", 1234);
    fs::set_permissions(place.at("a/other"), fs::Permissions::from_mode(0o644)).unwrap();
    let mut channel = Channel::open(&place, "a", false, KINDS[0]);
    let stream = channel.stream(Authorisation::Own);
    let (mode, uid, gid) = channel.owner(stream, b"other");
    assert_eq!((mode & 0o7777, uid, gid), (0o644, 65534, 65534));
    assert_eq!(channel.read(stream, b"other").unwrap(), b"");
}

/// The processes of this place's program.
fn living(place: &Place) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ours =
        |path: PathBuf| fs::read_link(path.join("exe")).is_ok_and(|exe| exe == place.program());
    processes.filter(|process| ours(process.path())).count()
}

#[test]
fn a_later_folder_comes_into_the_sandbox() {
    for user in users() {
        for options in KINDS {
            let place = Place::new(user);
            place.write("a/file", "first");
            place.write("b/file", "second");
            let mut channel = Channel::open(&place, "a", false, options);
            let first = channel.stream(Authorisation::Own);
            let mut later = call(&place, "b", true, options, Role::Grant(channel.nonce));
            let token = match later.answer() {
                Answer::Taken(hello) => match hello.taken {
                    Taken::Grant(token) => token,
                    Taken::Channel => panic!("it became a channel"),
                },
                Answer::Refused(reason) => panic!("{}: {}", reason.text, later.stderr()),
            };
            assert!(later.ended().success());
            // Nothing of it holds on to what the call came with.
            assert_eq!(later.socket.read(&mut [0]).unwrap(), 0);
            assert_eq!(later.stderr(), "");
            let second = channel.stream(Authorisation::Token(token.0));
            assert_eq!(channel.read(second, b"file").unwrap(), b"second");
            assert_eq!(channel.read(first, b"file").unwrap(), b"first");
            if geteuid().is_root() {
                // Without a process of its own the folder is this channel's.
                assert_eq!(living(&place), if options[1] == "landlock" { 3 } else { 2 });
            }
            channel.socket.shutdown(std::net::Shutdown::Both).unwrap();
            channel.ended();
            in_time("the end of all processes", || (living(&place) == 0).then_some(()));
        }
    }
}

#[test]
fn a_killed_keeper_or_service_takes_the_other_along() {
    for user in users() {
        for options in KINDS {
            for victim in ["keeper", "service"] {
                let place = Place::new(user);
                let mut channel = Channel::open(&place, "a", false, options);
                channel.stream(Authorisation::Own);
                let (keeper, service) = channel.pids();
                let service = service.unwrap();
                assert_eq!(place.sockets(), 1);
                kill_process(if victim == "keeper" { keeper } else { service }, Signal::KILL)
                    .unwrap();
                let ended = channel.ended();
                in_time("the end of the service", || is_gone(service).then_some(()));
                // The client sees its end at once.
                assert_eq!(channel.socket.read(&mut [0; 16]).unwrap_or(0), 0);
                if victim == "service" {
                    assert_eq!(ended.code(), Some(137));
                    assert!(channel.stderr().contains("was ended by signal 9"));
                    assert_eq!(place.sockets(), 0);
                } else {
                    assert_eq!(ended.signal(), Some(9));
                }
            }
        }
    }
}

#[test]
fn a_keeper_that_is_told_to_end_ends_the_service_and_clears_up() {
    for user in users() {
        let place = Place::new(user);
        let mut channel = Channel::open(&place, "a", false, &[]);
        channel.stream(Authorisation::Own);
        let (keeper, service) = channel.pids();
        kill_process(keeper, Signal::TERM).unwrap();
        assert_eq!(channel.ended().code(), Some(143));
        assert!(is_gone(service.unwrap()));
        assert_eq!(place.sockets(), 0);
        // As it does where the client closes the channel.
        let mut channel = Channel::open(&place, "a", false, &[]);
        channel.stream(Authorisation::Own);
        assert_eq!(place.sockets(), 1);
        channel.socket.shutdown(std::net::Shutdown::Both).unwrap();
        channel.ended();
        assert_eq!(place.sockets(), 0);
    }
}

#[test]
fn a_stopped_service_waits_and_goes_on() {
    let place = Place::new(User::Same);
    place.write("a/file", "text");
    let mut channel = Channel::open(&place, "a", false, &[]);
    let stream = channel.stream(Authorisation::Own);
    let (keeper, service) = channel.pids();
    // The keeper alone: nothing is to be noticed of it.
    kill_process(keeper, Signal::STOP).unwrap();
    assert_eq!(channel.read(stream, b"file").unwrap(), b"text");
    kill_process(service.unwrap(), Signal::STOP).unwrap();
    kill_process(service.unwrap(), Signal::CONT).unwrap();
    assert_eq!(channel.read(stream, b"file").unwrap(), b"text");
    kill_process(keeper, Signal::CONT).unwrap();
}

#[test]
fn where_nothing_can_be_had_the_call_is_refused_unless_asked_for() {
    for user in users() {
        let mut place = Place::new(user);
        place.write("a/file", "text");
        place.narrow = true;
        if !place.command(&["--version"]).output().is_ok_and(|output| output.status.success()) {
            eprintln!("no user namespaces here to try it in");
            return;
        }
        let mut refused = call(&place, "a", false, &["--sandbox", "namespaces"], Role::Channel);
        match refused.answer() {
            Answer::Refused(reason) => {
                assert!(reason.text.contains("cannot be locked"), "{reason}")
            }
            Answer::Taken(_) => panic!("it was served"),
        }
        assert_eq!(refused.ended().code(), Some(1));
        assert_eq!(place.sockets(), 0);
        // A channel without a sandbox serves, and says what it lacks.
        let mut channel = Channel::open(&place, "a", false, &["--no-sandbox"]);
        let stream = channel.stream(Authorisation::Own);
        assert_eq!(channel.read(stream, b"file").unwrap(), b"text");
        channel.socket.shutdown(std::net::Shutdown::Both).unwrap();
        channel.ended();
        assert!(channel.stderr().contains("without a sandbox"));
        // Landlock takes the place of namespaces, where it is there, and says so.
        let mut channel = call(&place, "a", false, &[], Role::Channel);
        match channel.answer() {
            Answer::Taken(hello) => {
                channel.client.establish(Duration::ZERO, &hello.limits);
                let stream = channel.stream(Authorisation::Own);
                assert_eq!(channel.read(stream, b"file").unwrap(), b"text");
                channel.socket.shutdown(std::net::Shutdown::Both).unwrap();
                channel.ended();
                assert!(channel.stderr().contains("landlock only (namespaces: "));
            }
            Answer::Refused(_) => eprintln!("no Landlock here"),
        }
    }
}

#[test]
fn file_capabilities_are_for_root_alone() {
    let user = if geteuid().is_root() { User::Nobody } else { User::Same };
    let place = Place::new(user);
    let mut command = place.command(&["--keep-file-capabilities", "sharedfolders.Mount+-tmp"]);
    let output = command.env("QREXEC_REMOTE_DOMAIN", "work").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
