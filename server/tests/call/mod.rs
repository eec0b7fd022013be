//! The client end of a call to the real binary, played by the test, and folders for it to serve.
//!
//! As root a test can also have the service run as the user 65534.

// Each of the tests needs some of it.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, geteuid};
use transport::id::{Fid, Msize, StreamId, Tag};
use transport::mux::preface::{
    Answer, Capabilities, ClientHello, Nonce, Preface, PrefaceReader, Role, Taken, Token,
};
use transport::mux::{Authorisation, Config, Connection, Event, Open, Side};
use transport::ninep::message::{Names, VERSION};
use transport::ninep::{Kind, Tmessage};
use transport::relay::class::class;

/// A bound on hangs, never part of a verdict.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const NOBODY: u32 = 65534;

/// As whom a service runs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum User {
    Same,
    Nobody,
}

pub fn users() -> Vec<User> {
    if geteuid().is_root() { vec![User::Same, User::Nobody] } else { vec![User::Same] }
}

/// Folders of one test.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub user: User,
    /// Whether services run where no user namespace can be made.
    pub narrow: bool,
    /// Who calls.
    pub client: &'static str,
}

impl Place {
    pub fn new(user: User) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder, user, narrow: false, client: "work" };
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

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// Where another user can start it from: the folder of the tests may be closed to them.
    pub fn program(&self) -> PathBuf {
        self.at("bin/qvm-folder-server")
    }

    pub fn give(&self, name: &str, mode: u32) {
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
        if self.user == User::Nobody {
            std::os::unix::fs::chown(self.at(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
        self.give(name, 0o600);
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(if self.narrow { "unshare".into() } else { self.program() });
        if self.narrow {
            command.args(["--user", "--map-root-user", "sh", "-c", NARROW]).arg(self.program());
        }
        command.arg("--log").arg(self.at("run/log"));
        command.args(arguments).env("XDG_RUNTIME_DIR", self.at("run")).current_dir("/");
        if self.user == User::Nobody {
            // std drops the other groups where root gives a user.
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// What the service has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.at("run/log")).unwrap_or_default()
    }

    pub fn sockets(&self) -> usize {
        fs::read_dir(self.at("run/qubes-shared-folders/server")).map_or(0, Iterator::count)
    }
}

/// In a user namespace of its own: no further one, and no right to do without.
pub const NARROW: &str = "echo 0 >/proc/sys/user/max_user_namespaces && \
                      exec setpriv --bounding-set=-all --inh-caps=-all \"$0\" \"$@\"";

pub fn in_time<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(got) = get() {
            return got;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The client end of a call, played by the test.
pub struct Channel {
    pub child: Child,
    pub socket: UnixStream,
    pub client: Connection,
    start: Instant,
    pub nonce: Nonce,
    replies: Vec<Vec<u8>>,
    long: Vec<u8>,
    opened: bool,
    /// The msize that the last stream was offered.
    pub offered: u32,
    /// Why a stream was not opened, or has ended.
    pub refused: Option<String>,
    /// Why the channel has ended.
    pub left: Option<String>,
}

/// What is an alias to [`call`].
pub const ALIAS: &str = "media";

/// Starts the service for a folder of `place`, and sends the preface.
pub fn call(place: &Place, folder: &str, read_only: bool, options: &[&str], role: Role) -> Channel {
    let (near, far) = UnixStream::pair().unwrap();
    // A name of one of the folders of `place`, or an alias.
    let name = match folder {
        ALIAS => folder.into(),
        folder => place.at(folder).into_os_string(),
    };
    let folder = policy::Folder::parse(&name).unwrap();
    let service = if read_only { "sharedfolders.MountReadOnly" } else { "sharedfolders.Mount" };
    let child = place
        .command(options)
        .env("QREXEC_REMOTE_DOMAIN", place.client)
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
        offered: 0,
        refused: None,
        left: None,
    }
}

impl Channel {
    /// A channel for a folder of `place`.
    pub fn open(place: &Place, folder: &str, read_only: bool, options: &[&str]) -> Channel {
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

    pub fn answer(&mut self) -> Answer {
        let mut reader = PrefaceReader::<Answer>::default();
        loop {
            let mut byte = [0];
            self.socket.read_exact(&mut byte).unwrap_or_else(|_| panic!("no answer"));
            if let Some((answer, _)) = reader.feed(Bytes::copy_from_slice(&byte)).unwrap() {
                return answer;
            }
        }
    }

    pub fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// A stream with a 9P session, by that permission.
    pub fn stream(&mut self, authorisation: Authorisation) -> StreamId {
        self.try_stream(authorisation).unwrap()
    }

    /// The same, or the words of the refusal.
    pub fn try_stream(&mut self, authorisation: Authorisation) -> Result<StreamId, String> {
        let msize = Msize::MAX.bytes();
        let stream = self.client.open(Open { msize, flags: 0, authorisation }).unwrap();
        while !self.opened {
            self.turn(stream);
            if let Some(refused) = self.refused.take() {
                return Err(refused);
            }
        }
        self.opened = false;
        let msize = self.offered;
        self.ask(stream, Tmessage::Tversion { msize, version: VERSION });
        let attach =
            Tmessage::Tattach { fid: ROOT, afid: Fid::NONE, uname: b"", aname: b"", n_uname: 0 };
        self.ask(stream, attach);
        Ok(stream)
    }

    /// Waits until a stream has ended, or the channel; gives the other end's words.
    pub fn end_of(&mut self, stream: StreamId) -> String {
        loop {
            self.turn(stream);
            if let Some(why) = self.refused.take().or(self.left.take()) {
                return why;
            }
        }
    }

    /// The token that a later call for that folder of `place` gets for this channel.
    pub fn token(&mut self, place: &Place, folder: &str, options: &[&str]) -> Token {
        let mut later = call(place, folder, false, options, Role::Grant(self.nonce));
        match later.answer() {
            Answer::Taken(hello) => match hello.taken {
                Taken::Grant(token) => token,
                Taken::Channel => panic!("it became a channel"),
            },
            Answer::Refused(reason) => panic!("{}: {}", reason.text, later.stderr()),
        }
    }

    /// Sends a message and gives the reply without its size; its first byte is its type.
    pub fn ask(&mut self, stream: StreamId, message: Tmessage<'_>) -> Vec<u8> {
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
            assert_eq!(self.refused, None);
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
            Event::Opened { opened, .. } => {
                self.offered = opened.msize;
                self.opened = true;
                0
            }
            Event::Refused { reason, .. } | Event::Closed { reason, .. } => {
                self.refused = Some(reason.to_string());
                0
            }
            Event::GoAway { reason } => {
                self.left = Some(reason.to_string());
                0
            }
            _ => 0,
        };
        if taken > 0 {
            self.client.consumed(stream, taken as u32);
        }
    }

    /// The file's bytes, by a walk, an open, a read and a clunk.
    pub fn read(&mut self, stream: StreamId, name: &[u8]) -> Result<Vec<u8>, u32> {
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
    pub fn owner(&mut self, stream: StreamId, name: &[u8]) -> (u32, u32, u32) {
        let names = Names::new(&[name]).unwrap();
        self.ask(stream, Tmessage::Twalk { fid: ROOT, newfid: FILE, names });
        let reply = good(self.ask(stream, Tmessage::Tgetattr { fid: FILE, mask: 0x7ff })).unwrap();
        self.ask(stream, Tmessage::Tclunk { fid: FILE });
        // type[1] tag[2] valid[8] qid[13] mode[4] uid[4] gid[4]
        let number = |at: usize| u32::from_le_bytes(reply[at..at + 4].try_into().unwrap());
        (number(24), number(28), number(32))
    }

    /// The service's processes: the keeper, and the one that it keeps.
    pub fn pids(&self) -> (Pid, Option<Pid>) {
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
    pub fn ended(&mut self) -> std::process::ExitStatus {
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
pub fn good(reply: Vec<u8>) -> Result<Vec<u8>, u32> {
    const RLERROR: u8 = 7;
    match reply[0] {
        RLERROR => Err(u32::from_le_bytes(reply[3..7].try_into().unwrap())),
        _ => Ok(reply),
    }
}

pub const ROOT: Fid = Fid(0);
pub const FILE: Fid = Fid(1);

/// The ways of being confined that there are here, as options.
pub const KINDS: [&[&str]; 2] = [&["--sandbox", "namespaces"], &["--sandbox", "landlock"]];
