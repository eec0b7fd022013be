//! A place for tests of the real binary without any mount: a folder of its own for sockets, a shell script
//! as the far end, and a socket as front end.

#![allow(dead_code)] // Each test uses a part of it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::Pid;
use transport::mux::preface::{
    Answer, Capabilities, ClientHello, Nonce, Preface, PrefaceReader, ServerHello, Taken, Token,
};
use transport::mux::{Code, Config, Connection, Event, Opened, Reason, Side};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A folder of its own for sockets, and a far end.
pub struct Place {
    pub folder: tempfile::TempDir,
    /// No other test calls a qube of this name.
    pub qube: String,
}

impl Place {
    pub fn new(qube: &str, far_end: &str) -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let place = Place { folder, qube: format!("{qube}-{}", std::process::id()) };
        place.far_end(far_end);
        place
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn far_end(&self, script: &str) {
        fs::write(self.at("via.new"), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(self.at("via.new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(self.at("via.new"), self.at("via")).unwrap();
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qvm-mount-folder"));
        command.env("XDG_RUNTIME_DIR", self.folder.path()).stderr(Stdio::piped());
        for name in ["SUDO_UID", "SUDO_GID"] {
            command.env_remove(name);
        }
        command
    }

    pub fn offer(&self, socket: &str) -> Child {
        let mut command = self.command();
        command.args([self.qube.as_str(), "/srv", "--socket"]).arg(self.at(socket));
        command.arg("--via").arg(self.at("via")).spawn().unwrap()
    }

    /// The same, once it is in the list: from then on a signal ends it in good order.
    pub fn offered(&self, socket: &str) -> Child {
        let child = self.offer(socket);
        let place = format!("{}", self.at(socket).display());
        within(|| {
            let output = self.command().arg("--list").output().unwrap();
            String::from_utf8(output.stdout).unwrap().contains(&place).then_some(())
        });
        child
    }

    /// The folder of the daemons' sockets.
    pub fn runtime(&self) -> PathBuf {
        self.at("qubes-shared-folders/client")
    }

    /// The pair's daemon.
    pub fn daemon(&self) -> Option<Pid> {
        let ours = |path: &Path| {
            let words = fs::read(path.join("cmdline")).unwrap_or_default();
            let mut words = words.split(|&byte| byte == 0);
            words.any(|word| word == b"--daemon") && words.any(|word| word == self.qube.as_bytes())
        };
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let mut found = processes.filter(|path| ours(path));
        found.find_map(|path| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?))
    }
}

#[track_caller]
pub fn within<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How a command ended: its code, and what it said.
#[track_caller]
pub fn ended(child: &mut Child) -> (Option<i32>, String) {
    let status = within(|| child.try_wait().unwrap());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.code(), said)
}

/// A script that runs this program's [`far_end_of_a_call`].
pub fn far_end(does: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let test = "place::far_end_of_a_call --exact --ignored --nocapture";
    format!("FAR_END={does} exec {} {test}", program.display())
}

/// A file server's end of a call, on stdin and stdout: grants whatever is asked for. What the test's
/// harness prints comes before it, as from a login shell.
#[test]
#[ignore = "started by the others"]
fn far_end_of_a_call() {
    let Ok(does) = std::env::var("FAR_END") else { return };
    let (mut input, mut output) = (std::io::stdin(), std::io::stdout());
    let mut buffer = [0; 4096];
    let mut reader = PrefaceReader::<ClientHello>::default();
    let (hello, rest) = loop {
        let count = input.read(&mut buffer).unwrap();
        if let Some(read) = reader.feed(Bytes::copy_from_slice(&buffer[..count])).unwrap() {
            break read;
        }
    };
    let taken = match hello.role {
        transport::mux::preface::Role::Channel => Taken::Channel,
        transport::mux::preface::Role::Grant(_) => Taken::Grant(Token([7; 16])),
    };
    let mut mux = Connection::new(Side::Server, Config::default());
    let limits = mux.limits();
    let (capabilities, nonce) = (Capabilities::OURS, Nonce([1; 16]));
    let name = std::env::var("FAR_END_NAME").unwrap_or_else(|_| "far".into()).into_bytes();
    let answer = ServerHello { capabilities, limits, taken, name, nonce };
    output.write_all(&Answer::Taken(answer).encode()).unwrap();
    output.flush().unwrap();
    if taken != Taken::Channel {
        std::process::exit(0);
    }
    mux.establish(Duration::ZERO, &hello.limits);
    let (mut input_bytes, mut first) = (rest, None);
    loop {
        mux.handle_input(Duration::ZERO, input_bytes).unwrap();
        while let Some(event) = mux.poll_event() {
            if let Event::Open { stream, open } = event {
                mux.accept(stream, Opened { msize: open.msize });
                if let Some(first) = first.filter(|_| does == "close") {
                    mux.close(first, Reason::new(Code::NOT_PERMITTED, "enough"));
                }
                first = Some(stream);
            }
        }
        let mut frames = Vec::new();
        mux.poll_transmit(Duration::ZERO, usize::MAX, &mut frames);
        output.write_all(&frames.concat()).unwrap();
        output.flush().unwrap();
        let count = input.read(&mut buffer).unwrap();
        if count == 0 {
            std::process::exit(0);
        }
        input_bytes = Bytes::copy_from_slice(&buffer[..count]);
    }
}
