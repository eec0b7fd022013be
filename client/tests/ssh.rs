//! `--via ssh` through the real binaries: with a program in ssh's place that does what sshd would, and with
//! OpenSSH's own client and server, joined by a pipe.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod place;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};

use place::{PATIENCE, Place, ended, within};
use rustix::process::{Pid, Signal, kill_process};
use transport::id::{Fid, Tag};
use transport::ninep::Tmessage;

/// Where this build's programs are; the service among them.
fn programs() -> &'static Path {
    let folder = Path::new(env!("CARGO_BIN_EXE_qvm-mount-folder")).parent().unwrap();
    assert!(folder.join("qvm-folder-server").exists(), "first: cargo build --workspace --bins");
    folder
}

/// A place where `ssh` is `script`.
fn place(name: &str, script: &str) -> Place {
    let place = Place::new(name, "");
    fs::create_dir(place.at("bin")).unwrap();
    fs::write(place.at("bin/ssh"), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(place.at("bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(place.at("served")).unwrap();
    place
}

fn offer(place: &Place, socket: &str, folder: &Path) -> Child {
    let path = std::env::var("PATH").unwrap();
    let mut command = place.command();
    command.env("PATH", format!("{}:{path}", place.at("bin").display()));
    command.arg(&place.qube).arg(folder).args(["--via", "ssh", "--socket"]).arg(place.at(socket));
    command.spawn().unwrap()
}

/// Speaks 9P at a socket as far as its root.
fn attach(path: &Path) {
    let mut socket = within(|| UnixStream::connect(path).ok());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ask = |tag: Tag, message: &Tmessage<'_>| {
        socket.write_all(&message.encode(tag).head).unwrap();
        let mut size = [0; 4];
        socket.read_exact(&mut size).unwrap();
        let mut rest = vec![0; u32::from_le_bytes(size) as usize - 4];
        socket.read_exact(&mut rest).unwrap();
        rest[0]
    };
    let version = Tmessage::Tversion { msize: 8192, version: b"9P2000.L" };
    assert_eq!(ask(Tag::NONE, &version), 101);
    let (uname, aname) = (&b"nobody"[..], &b""[..]);
    let attach = Tmessage::Tattach { fid: Fid(1), afid: Fid::NONE, uname, aname, n_uname: 0 };
    // Not 7, an error.
    assert_eq!(ask(Tag(1), &attach), 105);
}

fn stop(child: &mut Child) {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    let (code, said) = ended(child);
    assert_eq!(code, Some(0), "{said}");
}

fn two_offers_on_one_channel(place: &Place) {
    let folder = place.at("served");
    let mut first = offer(place, "first", &folder);
    attach(&place.at("first"));
    let mut second = offer(place, "second", &folder);
    attach(&place.at("second"));
    let output = place.command().args(["--list", "--json"]).output().unwrap();
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(all["channels"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!(
        (&all["channels"][0]["via"], &all["channels"][0]["mounts"]),
        (&"ssh".into(), &2.into())
    );
    stop(&mut first);
    stop(&mut second);
    within(|| place.daemon().is_none().then_some(()));
}

#[test]
fn ssh_runs_the_service_with_the_call_as_its_word() {
    // sshd gives the words, joined by blanks, to the login shell, which may print first.
    let script = format!(
        "[ $# = 3 ] || exit 99\nhost=$1; shift\necho \"$host $*\" >>\"$0.log\"\n\
         unset QREXEC_REMOTE_DOMAIN\necho Welcome to $host\n\
         SSH_CONNECTION='127.0.0.1 1 127.0.0.1 22' PATH='{}':$PATH exec /bin/sh -c \"$*\"",
        programs().display()
    );
    let place = place("host", &script);
    two_offers_on_one_channel(&place);
    let log = fs::read_to_string(place.at("bin/ssh.log")).unwrap();
    let served = place.at("served");
    let folder = policy::Folder::parse(served.as_os_str()).unwrap().to_argument();
    let line = format!("{} qvm-folder-server sharedfolders.Mount+{folder}\n", place.qube);
    assert_eq!(log, line.repeat(2));
}

#[test]
fn what_ssh_cannot_do_is_said_in_its_own_words() {
    for (script, code, why, hint) in [
        ("echo Permission denied >&2; exit 255", 3, "ssh did not get to", "a key, or an agent"),
        ("echo sh: not found >&2; exit 127", 127, "has no qvm-folder-server", "install"),
    ] {
        let place = place("bad", script);
        let (found, said) = ended(&mut offer(&place, "socket", Path::new("/srv")));
        assert_eq!(found, Some(code), "{said}");
        assert!(said.contains(why) && said.contains(hint) && !said.contains("dom0"), "{said}");
    }
}

#[test]
fn openssh_carries_a_channel() {
    let place = place("openssh", "");
    let at = |name: &str| place.at(name).display().to_string();
    for key in ["host_key", "user_key"] {
        let words = ["-q", "-t", "ed25519", "-N", "", "-f"];
        let mut command = Command::new("ssh-keygen");
        let mut made = command.args(words).arg(place.at(key)).spawn().unwrap();
        assert!(made.wait().unwrap().success());
    }
    fs::copy(place.at("user_key.pub"), place.at("authorized")).unwrap();
    let host_key = fs::read_to_string(place.at("host_key.pub")).unwrap();
    fs::write(place.at("known"), format!("{} {host_key}", place.qube)).unwrap();
    // A path of our own: the service is not installed here.
    let path = format!("{}:/usr/bin:/bin", programs().display());
    fs::write(
        place.at("sshd_config"),
        format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
             PasswordAuthentication no\nPidFile none\nSetEnv PATH={path}\n",
            at("host_key"),
            at("authorized")
        ),
    )
    .unwrap();
    if rustix::process::geteuid().is_root() {
        // Debian's makes it when its service starts.
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let sshd = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let sshd = sshd.expect("sshd is there: make tools");
    let script = format!(
        "exec /usr/bin/ssh -F none -i '{}' -o IdentitiesOnly=yes -o BatchMode=yes \
         -o UserKnownHostsFile='{}' -o ProxyCommand=\"{sshd} -i -f '{}'\" \"$@\"",
        at("user_key"),
        at("known"),
        at("sshd_config")
    );
    fs::write(place.at("bin/ssh"), format!("#!/bin/sh\n{script}\n")).unwrap();
    two_offers_on_one_channel(&place);
}

#[test]
fn nobody_but_sshd_can_leave_the_clients_name_away() {
    let call = "sharedfolders.Mount+-srv";
    for (variables, code) in [
        (&[][..], 1),
        (&[("QREXEC_SERVICE_FULL_NAME", call)], 1),
        // Nothing is said on stdin: it was taken, and ends.
        (&[("SSH_CONNECTION", "127.0.0.1 1 127.0.0.1 22")], 0),
    ] {
        let mut command = Command::new(programs().join("qvm-folder-server"));
        command.arg(call).env_clear().envs(variables.iter().copied());
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{variables:?}: {output:?}");
    }
}
