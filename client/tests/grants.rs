//! Later mounts of a pair: how many questions dom0 is asked, and what becomes of a call that finds its
//! channel gone, or another qube than the channel's. Without any mount: the front end is a socket.
//!
//! The far end is the real service behind the stand-in for qrexec, or a script. The programs are those of
//! the workspace, from the folder of this build (`cargo build --workspace --bins`).

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod far_end;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use transport::id::{Fid, Msize, Tag};
use transport::mux::Authorisation;
use transport::mux::preface::{Nonce, Role, Taken, Token};
use transport::ninep::Tmessage;
use transport::ninep::message::{Names, VERSION};

const PATIENCE: Duration = Duration::from_secs(30);

#[track_caller]
fn within<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn program(name: &str) -> PathBuf {
    let ours = Path::new(env!("CARGO_BIN_EXE_qvm-mount-folder"));
    let program = ours.with_file_name(name);
    assert!(program.exists(), "{name} is not there: cargo build --workspace --bins");
    program
}

/// Folders, and a far end.
struct Place {
    folder: tempfile::TempDir,
    via: PathBuf,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Place { folder, via: PathBuf::new(), variables: Vec::new() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o755)).unwrap();
        self.at(name)
    }

    /// The real service behind the stand-in for qrexec, with `policy` in dom0.
    fn qrexec(policy: &str) -> Place {
        let mut place = Place::new();
        fs::create_dir(place.at("run")).unwrap();
        fs::set_permissions(place.at("run"), fs::Permissions::from_mode(0o700)).unwrap();
        for service in ["sharedfolders.Mount", "sharedfolders.MountReadOnly"] {
            let server = program("qvm-folder-server");
            let (run, log) = (place.at("run"), place.at("server.log"));
            let text = format!(
                "export XDG_RUNTIME_DIR={}\nexec {} --log {}",
                run.display(),
                server.display(),
                log.display()
            );
            place.script(&format!("services/{service}"), &text);
        }
        fs::write(place.at("policy"), policy).unwrap();
        place.via = program("qrexec-standin");
        place.variables = vec![
            ("QREXEC_STANDIN_SERVICES", place.at("services")),
            ("QREXEC_STANDIN_POLICY", place.at("policy")),
            ("QREXEC_STANDIN_LOG", place.at("calls")),
        ];
        place
    }

    fn serve(&self, name: &str) -> PathBuf {
        fs::create_dir(self.at(name)).unwrap();
        fs::write(self.at(name).join("file"), name).unwrap();
        self.at(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program("qvm-mount-folder"));
        command.env("XDG_RUNTIME_DIR", self.folder.path()).stderr(Stdio::piped());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        for name in ["SUDO_UID", "SUDO_GID"] {
            command.env_remove(name);
        }
        command
    }

    fn start(&self, folder: &Path, socket: &str, options: &[&str]) -> Child {
        let mut command = self.command();
        command.arg("work").arg(folder).arg("--socket").arg(self.at(socket)).args(options);
        command.arg("--via").arg(&self.via).spawn().unwrap()
    }

    /// A folder at a socket, once it is there.
    fn offer(&self, folder: &Path, socket: &str, options: &[&str]) -> Offer {
        let mut child = self.start(folder, socket, options);
        within(socket, || {
            if let Some(status) = child.try_wait().unwrap() {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("{socket}: {status}: {said}");
            }
            let socket = self.at(socket);
            let at = self.list("mounts", "mount_point");
            at.iter().any(|place| Path::new(place) == socket).then_some(())
        });
        Offer { child, socket: self.at(socket) }
    }

    /// The service of calls so far, and how many of them go on.
    fn calls(&self) -> (Vec<String>, usize) {
        let log = fs::read_to_string(self.at("calls")).unwrap_or_default();
        let starts = log.lines().filter(|line| line.starts_with("start "));
        let calls: Vec<_> = starts.map(|line| line.split(' ').nth(3).unwrap().to_owned()).collect();
        let ends = log.lines().filter(|line| line.starts_with("end ")).count();
        let living = calls.len() - ends;
        (calls, living)
    }

    /// A word of each of the list's mounts, or channels.
    fn list(&self, of: &str, word: &str) -> Vec<String> {
        let output = self.command().args(["--list", "--json"]).output().unwrap();
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = list[of].as_array().unwrap().iter();
        let mut words: Vec<_> = all.map(|one| one[word].as_str().unwrap().to_owned()).collect();
        words.sort();
        words
    }
}

struct Offer {
    child: Child,
    socket: PathBuf,
}

impl Offer {
    /// The text of the folder's file, by a 9P session of our own.
    fn read(&self) -> String {
        let mut socket = UnixStream::connect(&self.socket).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut ask = |message: Tmessage<'_>| {
            socket.write_all(&message.encode(Tag(1)).to_vec()).unwrap();
            let mut size = [0; 4];
            socket.read_exact(&mut size).unwrap();
            let mut reply = vec![0; u32::from_le_bytes(size) as usize - 4];
            socket.read_exact(&mut reply).unwrap();
            assert_ne!(reply[0], 7, "{message:?}: {reply:?}");
            reply
        };
        let (root, file, afid) = (Fid(0), Fid(1), Fid::NONE);
        ask(Tmessage::Tversion { msize: Msize::MAX.bytes(), version: VERSION });
        ask(Tmessage::Tattach { fid: root, afid, uname: b"", aname: b"", n_uname: 0 });
        let names = Names::new(&[b"file"]).unwrap();
        ask(Tmessage::Twalk { fid: root, newfid: file, names });
        ask(Tmessage::Tlopen { fid: file, flags: 0 });
        let reply = ask(Tmessage::Tread { fid: file, offset: 0, count: 1000 });
        String::from_utf8(reply[7..].to_vec()).unwrap()
    }

    fn end(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        within("the end of the command", || self.child.try_wait().unwrap());
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn three_mounts_make_three_policy_questions_and_one_lasting_call() {
    let place = Place::qrexec(
        "sharedfolders.Mount * client work allow\nsharedfolders.MountReadOnly * client work allow\n",
    );
    let mut offers = Vec::new();
    for (name, options) in [("a", &[][..]), ("b", &["--read-only"]), ("c", &[])] {
        offers.push(place.offer(&place.serve(name), &format!("{name}.socket"), options));
        within("one lasting call", || (place.calls().1 == 1).then_some(()));
    }
    for (offer, name) in offers.iter().zip(["a", "b", "c"]) {
        assert_eq!(offer.read(), name);
    }
    let (calls, living) = place.calls();
    println!("3 mounts: {} policy questions, {living} lasting call", calls.len());
    let argument =
        |name: &str| policy::Folder::parse(place.at(name).as_os_str()).unwrap().to_argument();
    assert_eq!(
        calls,
        [
            format!("sharedfolders.Mount+{}", argument("a")),
            format!("sharedfolders.MountReadOnly+{}", argument("b")),
            format!("sharedfolders.Mount+{}", argument("c")),
        ]
    );
    offers[0].end();
    assert_eq!(offers[1].read(), "b");
    assert_eq!(place.calls().1, 1);
    offers.iter_mut().skip(1).for_each(Offer::end);
    within("the end of all calls", || (place.calls().1 == 0).then_some(()));
}

#[test]
fn dom0_can_allow_reading_and_refuse_writing() {
    let place = Place::qrexec("sharedfolders.MountReadOnly * client work allow\n");
    let folder = place.serve("a");
    let mut refused = place.start(&folder, "refused", &[]);
    assert_eq!(within("refusal", || refused.try_wait().unwrap()).code(), Some(126));
    let mut first = place.offer(&folder, "a.socket", &["--read-only"]);
    // With a channel there dom0 is asked all the same.
    let mut refused = place.start(&folder, "refused", &[]);
    assert_eq!(within("refusal", || refused.try_wait().unwrap()).code(), Some(126));
    assert_eq!(first.read(), "a");
    first.end();
}

#[test]
fn a_later_call_that_finds_the_channel_gone_becomes_the_channel() {
    let place = Place::qrexec("* * client work allow\n");
    let mut first = place.offer(&place.serve("a"), "a.socket", &[]);
    // As after a restart of the service: whoever comes later does not find the first one's process.
    for entry in fs::read_dir(place.at("run/qubes-shared-folders/server")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let mut second = place.offer(&place.serve("b"), "b.socket", &[]);
    assert_eq!(place.calls().1, 2);
    // A third finds the second.
    let mut third = place.offer(&place.serve("c"), "c.socket", &[]);
    within("two lasting calls", || (place.calls().1 == 2).then_some(()));
    for (offer, text) in [(&first, "a"), (&second, "b"), (&third, "c")] {
        assert_eq!(offer.read(), text);
    }
    assert_eq!(place.list("mounts", "state"), ["ok", "ok", "ok"]);
    assert_eq!(place.list("channels", "state"), ["ok", "ok"]);
    // Each channel goes with its last mount.
    first.end();
    within("one lasting call", || (place.calls().1 == 1).then_some(()));
    assert_eq!(second.read(), "b");
    second.end();
    assert_eq!(third.read(), "c");
    third.end();
    within("the end of all calls", || (place.calls().1 == 0).then_some(()));
}

#[test]
fn a_mount_that_the_owner_ends_is_over_and_the_client_is_told_why() {
    let place = Place::qrexec("* * client work allow\n");
    let mut first = place.offer(&place.serve("a"), "a.socket", &[]);
    let mut second = place.offer(&place.serve("b"), "b.socket", &[]);
    let mut server = Command::new(program("qvm-folder-server"));
    server.env("XDG_RUNTIME_DIR", place.at("run"));
    let ended = server.arg("--disconnect").arg("client").arg(place.at("b")).output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    // Nobody is left behind the socket. (A mount stays, and answers with EIO.)
    let status = within("the end of the second", || second.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(11));
    let mut said = String::new();
    second.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let why = " has ended: disconnected: the owner of the folder ended it";
    assert!(said.contains(why), "{said}");
    let logs = place.at("qubes-shared-folders/client");
    within("the reason", || {
        let mut files = fs::read_dir(&logs).unwrap().flatten().map(|entry| entry.path());
        let log = files.find(|path| path.extension().is_some_and(|end| end == "log"))?;
        let why = "ended a mount: disconnected: the owner of the folder ended it";
        fs::read_to_string(log).ok()?.contains(why).then_some(())
    });
    assert_eq!(first.read(), "a");
    first.end();
}

/// A far end that answers each call as `does` says; the first is always the channel of a qube "first".
fn scripted(does: &str) -> Place {
    let mut place = Place::new();
    let calls = place.at("calls");
    let text = format!(
        "echo \"start $$ $1 $2\" >>{calls}\n{}\necho \"end $$\" >>{calls}",
        far_end::script(does),
        calls = calls.display()
    );
    place.via = place.script("via", &text);
    place
}

#[test]
fn a_call_that_leads_to_another_qube_is_a_channel_of_its_own() {
    let place = scripted("elsewhere");
    let folder = Path::new("/srv");
    let mut first = place.offer(folder, "first.socket", &[]);
    let mut second = place.offer(folder, "second.socket", &[]);
    let mut third = place.offer(folder, "third.socket", &[]);
    assert_eq!(place.calls().1, 3);
    assert_eq!(place.list("mounts", "qube"), ["first", "other", "other"]);
    assert_eq!(place.list("channels", "qube"), ["first", "other", "other"]);
    // None of them holds up another.
    second.end();
    within("two lasting calls", || (place.calls().1 == 2).then_some(()));
    first.end();
    within("one lasting call", || (place.calls().1 == 1).then_some(()));
    third.end();
    within("the end of all calls", || (place.calls().1 == 0).then_some(()));
}

#[test]
fn a_permission_of_another_qube_is_none() {
    let place = scripted("foreign");
    let mut first = place.offer(Path::new("/srv"), "first.socket", &[]);
    let mut refused = place.start(Path::new("/srv"), "second.socket", &[]);
    let status = within("refusal", || refused.try_wait().unwrap());
    assert!(!status.success());
    let mut said = String::new();
    refused.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("bad name"), "{said}");
    within("one lasting call", || (place.calls().1 == 1).then_some(()));
    first.end();
}

#[test]
#[ignore = "started by the others"]
fn far_end_of_a_call() {
    let Ok(does) = std::env::var("FAR_END") else { return };
    let answer = |role| match (role, does.as_str()) {
        (Role::Channel, _) => ("first", Nonce([1; 16]), Taken::Channel),
        (Role::Grant(_), "elsewhere") => ("other", Nonce([2; 16]), Taken::Channel),
        (Role::Grant(nonce), _) => ("other", nonce, Taken::Grant(Token([7; 16]))),
    };
    // No stream of one qube's channel is asked for by what another has given.
    far_end::run(answer, |_, _, open| assert_eq!(open.authorisation, Authorisation::Own));
}
