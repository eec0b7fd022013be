//! A client that tries to have what it was not given: streams without a permission, more than a permission
//! gives, folders that the qube's rules close. Each attempt fails, is logged in the server's qube, and
//! costs the channel nothing.
//!
//! What code that has taken over the service could undo is `sandbox.rs`'s.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod call;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use transport::id::{Fid, Msize, StreamId};
use transport::mux::Authorisation;
use transport::mux::preface::{Answer, Role};
use transport::ninep::Tmessage;
use transport::ninep::message::{Names, SetAttributes, VERSION};

use call::{Channel, FILE, KINDS, Place, ROOT, User, call, good};

const ENOENT: u32 = 2;
const EROFS: u32 = 30;
const OTHER: Fid = Fid(7);

/// The ways in which a service is locked in, and none.
fn kinds() -> Vec<&'static [&'static str]> {
    [&KINDS[..], &[&["--no-sandbox"]]].concat()
}

fn place() -> Place {
    let place = Place::new(User::Same);
    place.write("a/file", "first");
    place.write("b/file", "second");
    place
}

#[test]
fn a_stream_without_a_good_permission_is_refused_and_costs_the_channel_nothing() {
    for options in kinds() {
        let place = place();
        let mut channel = Channel::open(&place, "a", false, options);
        let mut other = Channel::open(&place, "a", false, options);
        let first = channel.stream(Authorisation::Own);
        let used = channel.token(&place, "b", options).0;
        let second = channel.stream(Authorisation::Token(used));
        let foreign = other.token(&place, "b", options).0;
        let mut almost = channel.token(&place, "b", options).0;
        almost[15] ^= 1;
        for (what, authorisation) in [
            ("the channel's own, again", Authorisation::Own),
            ("used", Authorisation::Token(used)),
            ("another channel's", Authorisation::Token(foreign)),
            ("guessed", Authorisation::Token([0; 16])),
            ("nearly right", Authorisation::Token(almost)),
            ("a stream's that is not there", Authorisation::Sibling(StreamId(4000))),
        ] {
            let before = place.log().lines().count();
            let refused = channel.try_stream(authorisation).unwrap_err();
            assert!(refused.starts_with("not permitted: "), "{what}: {refused}");
            let log = place.log();
            let lines: Vec<_> = log.lines().skip(before).collect();
            let [line] = lines[..] else { panic!("{what}: {lines:?}") };
            assert!(
                line.contains("work: stream ") && line.contains(" refused: "),
                "{what}: {line}"
            );
            assert_eq!(channel.read(first, b"file").unwrap(), b"first", "{what}");
            assert_eq!(channel.read(second, b"file").unwrap(), b"second", "{what}");
        }
        // What was not good here is still good where it belongs.
        let there = other.stream(Authorisation::Token(foreign));
        assert_eq!(other.read(there, b"file").unwrap(), b"second");
    }
}

#[test]
fn an_expired_token_is_refused() {
    let place = place();
    let options = ["--token-lifetime", "0"];
    let mut channel = Channel::open(&place, "a", false, &options);
    let first = channel.stream(Authorisation::Own);
    let token = channel.token(&place, "b", &options).0;
    let refused = channel.try_stream(Authorisation::Token(token)).unwrap_err();
    assert!(refused.starts_with("not permitted: "), "{refused}");
    assert_eq!(channel.read(first, b"file").unwrap(), b"first");
}

#[test]
fn refused_streams_fill_neither_table_nor_log() {
    let place = place();
    let mut channel = Channel::open(&place, "a", false, &[]);
    let first = channel.stream(Authorisation::Own);
    for number in 0..2000u32 {
        let mut token = [0; 16];
        token[..4].copy_from_slice(&number.to_le_bytes());
        assert!(channel.try_stream(Authorisation::Token(token)).is_err());
    }
    assert_eq!(channel.read(first, b"file").unwrap(), b"first");
    let lines = place.log().lines().count();
    assert!((50..300).contains(&lines), "{lines}");
}

#[test]
fn the_permission_of_another_qube_opens_nothing() {
    let mut place = place();
    let mut channel = Channel::open(&place, "a", false, &[]);
    let first = channel.stream(Authorisation::Own);
    // Another qube has learned the channel's name: its call is no business of that channel.
    place.client = "evil";
    let mut theirs = call(&place, "b", false, &[], Role::Grant(channel.nonce));
    let Answer::Taken(hello) = theirs.answer() else { panic!("refused") };
    assert_eq!(hello.taken, transport::mux::preface::Taken::Channel);
    assert_ne!(hello.nonce, channel.nonce);
    theirs.client.establish(std::time::Duration::ZERO, &hello.limits);
    // And it has its own folder there, and none of the first one's.
    let stream = theirs.stream(Authorisation::Own);
    assert_eq!(theirs.read(stream, b"file").unwrap(), b"second");
    theirs.nonce = hello.nonce;
    let token = theirs.token(&place, "a", &[]).0;
    assert!(channel.try_stream(Authorisation::Token(token)).is_err());
    assert_eq!(channel.read(first, b"file").unwrap(), b"first");
}

#[test]
fn a_later_call_whose_channel_has_ended_is_the_next_channel() {
    for options in kinds() {
        let place = place();
        let mut channel = Channel::open(&place, "a", false, options);
        let nonce = channel.nonce;
        channel.socket.shutdown(std::net::Shutdown::Both).unwrap();
        channel.ended();
        let mut next = call(&place, "b", false, options, Role::Grant(nonce));
        let Answer::Taken(hello) = next.answer() else { panic!("refused") };
        assert_eq!(hello.taken, transport::mux::preface::Taken::Channel);
        next.client.establish(std::time::Duration::ZERO, &hello.limits);
        let stream = next.stream(Authorisation::Own);
        assert_eq!(next.read(stream, b"file").unwrap(), b"second");
    }
}

/// Every request that changes something, on a fid of the root and one of a file that is there.
fn changes(channel: &mut Channel, stream: StreamId) -> Vec<(&'static str, Result<Vec<u8>, u32>)> {
    let names = Names::new(&[b"file"]).unwrap();
    good(channel.ask(stream, Tmessage::Twalk { fid: ROOT, newfid: FILE, names })).unwrap();
    let none = Names::new(&[]).unwrap();
    good(channel.ask(stream, Tmessage::Twalk { fid: ROOT, newfid: OTHER, names: none })).unwrap();
    let (name, gid) = (&b"new"[..], u32::MAX);
    let mode = SetAttributes { valid: 1, mode: 0o777, ..SetAttributes::default() };
    let size = SetAttributes { valid: 8, size: 0, ..SetAttributes::default() };
    let times = SetAttributes { valid: 0x20, ..SetAttributes::default() };
    let requests = [
        ("open to write", Tmessage::Tlopen { fid: FILE, flags: 1 }),
        ("open to read and write", Tmessage::Tlopen { fid: FILE, flags: 2 }),
        ("open and empty", Tmessage::Tlopen { fid: FILE, flags: 0o1000 }),
        ("open to append", Tmessage::Tlopen { fid: FILE, flags: 0o2001 }),
        ("create", Tmessage::Tlcreate { fid: OTHER, name, flags: 2, mode: 0o600, gid }),
        ("mode", Tmessage::Tsetattr { fid: FILE, set: mode }),
        ("size", Tmessage::Tsetattr { fid: FILE, set: size }),
        ("times", Tmessage::Tsetattr { fid: FILE, set: times }),
        ("mkdir", Tmessage::Tmkdir { dfid: ROOT, name, mode: 0o700, gid }),
        ("symlink", Tmessage::Tsymlink { dfid: ROOT, name, target: b"x", gid }),
        ("mknod", Tmessage::Tmknod { dfid: ROOT, name, mode: 0o10600, major: 0, minor: 0, gid }),
        ("link", Tmessage::Tlink { dfid: ROOT, fid: FILE, name }),
        ("rename", Tmessage::Trename { fid: FILE, dfid: ROOT, name }),
        (
            "renameat",
            Tmessage::Trenameat {
                olddirfid: ROOT,
                oldname: b"file",
                newdirfid: ROOT,
                newname: name,
            },
        ),
        ("unlinkat", Tmessage::Tunlinkat { dirfid: ROOT, name: b"file", flags: 0 }),
        ("remove", Tmessage::Tremove { fid: FILE }),
    ];
    let mut results = Vec::new();
    for (what, request) in requests {
        results.push((what, good(channel.ask(stream, request))));
    }
    // 9P removes the fid, whatever becomes of the file.
    let names = Names::new(&[b"file"]).unwrap();
    good(channel.ask(stream, Tmessage::Twalk { fid: ROOT, newfid: FILE, names })).unwrap();
    let xattr = Tmessage::Txattrcreate { fid: FILE, name: b"user.x", size: 0, flags: 0 };
    // It takes effect with the clunk.
    let xattr = good(channel.ask(stream, xattr))
        .and_then(|_| good(channel.ask(stream, Tmessage::Tclunk { fid: FILE })));
    results.push(("xattr", xattr));
    channel.ask(stream, Tmessage::Tclunk { fid: FILE });
    results
}

#[test]
fn a_permission_to_read_changes_nothing_whatever_is_asked() {
    let rules = |place: &Place| {
        let folder = place.at("b");
        let folder = folder.display();
        format!(
            "[[export]]\nclient = \"*\"\nfolder = \"/\"\naccess = \"rw\"\n\
             [[export]]\nclient = \"work\"\nfolder = \"{folder}\"\naccess = \"ro\"\n"
        )
    };
    for options in kinds() {
        // For reading only by the service that was called, and by the qube's rules though writing was
        // asked for; in the first call's folder and in a later one's.
        for (by_rules, later) in [(false, false), (true, false), (false, true), (true, true)] {
            let place = place();
            place.write("exports.toml", &rules(&place));
            let exports = place.at("exports.toml");
            let mut words = options.to_vec();
            if by_rules {
                words.extend(["--exports", exports.to_str().unwrap()]);
            }
            let (mut channel, authorisation);
            if later {
                channel = Channel::open(&place, "a", false, &words);
                channel.stream(Authorisation::Own);
                let mut call = call(&place, "b", !by_rules, &words, Role::Grant(channel.nonce));
                let Answer::Taken(hello) = call.answer() else { panic!("refused") };
                let transport::mux::preface::Taken::Grant(token) = hello.taken else { panic!() };
                authorisation = Authorisation::Token(token.0);
            } else {
                channel = Channel::open(&place, "b", !by_rules, &words);
                authorisation = Authorisation::Own;
            }
            let stream = channel.stream(authorisation);
            for (what, result) in changes(&mut channel, stream) {
                assert_eq!(result, Err(EROFS), "{what}, {options:?}, {by_rules}, {later}");
            }
            assert_eq!(channel.read(stream, b"file").unwrap(), b"second");
            let names: Vec<_> = fs::read_dir(place.at("b")).unwrap().flatten().collect();
            assert_eq!(names.len(), 1);
        }
    }
}

#[test]
fn a_stream_stays_in_its_folder() {
    for options in kinds() {
        let place = place();
        std::os::unix::fs::symlink(place.at("b"), place.at("a/link")).unwrap();
        let mut channel = Channel::open(&place, "a", false, options);
        let stream = channel.stream(Authorisation::Own);
        for (at, aname) in [&b"/"[..], b"/etc", b"..", b"b", b"/tmp"].into_iter().enumerate() {
            let fid = Fid(100 + at as u32);
            let attach = Tmessage::Tattach { fid, afid: Fid::NONE, uname: b"", aname, n_uname: 0 };
            assert_eq!(good(channel.ask(stream, attach)), Err(ENOENT), "{aname:?}");
        }
        for names in [
            &[&b".."[..], b"b"][..],
            &[b"..", b"..", b"etc", b"passwd"],
            &[b"../b"],
            &[b"/etc/passwd"],
            &[b"link", b"file"],
            &[b"."],
        ] {
            let walk = Names::new(names).unwrap();
            let walk = Tmessage::Twalk { fid: ROOT, newfid: FILE, names: walk };
            let walked = channel.ask(stream, walk);
            // `..` of the root is the root (walk(5)), and then there is no such name.
            let reached = good(walked).is_ok_and(|reply| {
                let count = u16::from_le_bytes([reply[3], reply[4]]);
                usize::from(count) == names.len()
            });
            assert!(!reached, "{names:?}");
        }
        assert_eq!(channel.read(stream, b"file").unwrap(), b"first");
    }
}

#[test]
fn what_is_no_call_or_no_channel_is_logged_and_ends_it() {
    let place = place();
    let mut garbage = place
        .command(&[])
        .env("QREXEC_REMOTE_DOMAIN", place.client)
        .env("QREXEC_SERVICE_FULL_NAME", "sharedfolders.Mount+-srv")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    garbage.stdin.take().unwrap().write_all(b"GET / HTTP/1.1\x1b[2J\r\n").unwrap();
    assert_eq!(garbage.wait().unwrap().code(), Some(1));
    assert!(
        place.log().contains("work asked for /srv (read-write): the client end"),
        "{}",
        place.log()
    );
    let mut channel = Channel::open(&place, "a", false, &[]);
    channel.stream(Authorisation::Own);
    channel.socket.write_all(&[0xff; 64]).unwrap();
    assert!(!channel.ended().success());
    let log = place.log();
    assert!(log.lines().last().unwrap().contains("work: the other end sent"), "{log}");
    assert!(!log.contains('\x1b'));
}

/// What a call comes to: the other end's words, and its own log's last line.
fn refusal(place: &Place, folder: &str, options: &[&str]) -> (String, String, String) {
    let mut refused = call(place, folder, false, options, Role::Channel);
    let Answer::Refused(reason) = refused.answer() else { panic!("{folder} was served") };
    let log = place.log();
    let line = log.lines().last().unwrap_or_default().to_owned();
    assert_eq!(refused.ended().code(), Some(1));
    (reason.to_string(), refused.stderr(), line)
}

#[test]
fn what_the_rules_close_is_refused_in_the_same_words_whether_it_is_there_or_not() {
    let place = place();
    let a = place.at("a");
    let rules =
        format!("[[export]]\nclient = \"*\"\nfolder = \"{}\"\naccess = \"rw\"\n", a.display());
    place.write("exports.toml", &rules);
    place.write("file", "");
    fs::create_dir(place.at("closed")).unwrap();
    fs::set_permissions(place.at("closed"), fs::Permissions::from_mode(0o0)).unwrap();
    std::os::unix::fs::symlink(place.at("a"), place.at("link")).unwrap();
    let exports = place.at("exports.toml");
    let options = ["--exports", exports.to_str().unwrap()];
    let (words, said, _) = refusal(&place, "b", &options);
    assert!(words.starts_with("not permitted: "), "{words}");
    for folder in ["nothing", "file", "closed", "closed/in", "link", "b/file"] {
        let (other_words, other_said, line) = refusal(&place, folder, &options);
        assert_eq!((&other_words, &other_said), (&words, &said), "{folder}");
        let path = place.at(folder);
        assert!(
            line.contains(&format!("work asked for {} (read-write)", path.display())),
            "{line}"
        );
        assert!(line.contains("no rule in ") && line.contains("exports.toml"), "{line}");
        assert!(!other_said.contains("rule"), "{other_said}");
    }
    // In what it may have, it is told more, but not where a link leads.
    std::os::unix::fs::symlink("/etc", place.at("a/etc")).unwrap();
    std::os::unix::fs::symlink("/nowhere", place.at("a/nowhere")).unwrap();
    let led = refusal(&place, "a/etc", &options).0;
    for folder in ["a/nowhere", "a/etc/ssl", "a/etc/nothing"] {
        assert_eq!(refusal(&place, folder, &options).0, led, "{folder}");
    }
    assert!(led.contains("symbolic link"), "{led}");
    assert!(refusal(&place, "a/nothing", &options).0.contains("no such folder"));
    let mut channel = Channel::open(&place, "a", false, &options);
    let stream = channel.stream(Authorisation::Own);
    assert_eq!(channel.read(stream, b"file").unwrap(), b"first");
    assert!(place.log().contains("exports.toml:1: client = \"*\""), "{}", place.log());
}

#[test]
fn a_mistake_in_the_rules_refuses_everything() {
    let place = place();
    let good = "[[export]]\nclient = \"*\"\nfolder = \"/\"\naccess = \"rw\"\n";
    let exports = place.at("exports.toml");
    let options = ["--exports", exports.to_str().unwrap()];
    place.write("exports.toml", good);
    Channel::open(&place, "a", false, &options);
    place
        .write("exports.toml", &format!("{good}\n[[export]]\nclient = \"x\"\nfolder = \"/srv\"\n"));
    let (words, said, line) = refusal(&place, "a", &options);
    assert!(line.contains("exports.toml:6:1: [[export]]: access is missing"), "{line}");
    assert!(!words.contains("toml") && !said.contains("toml"), "{words} {said}");
    place.write("exports.toml", good);
    fs::set_permissions(&exports, fs::Permissions::from_mode(0o666)).unwrap();
    let (.., line) = refusal(&place, "a", &options);
    assert!(line.contains("others can write to it"), "{line}");
    fs::remove_file(&exports).unwrap();
    let (.., line) = refusal(&place, "a", &options);
    assert!(line.contains("cannot be read"), "{line}");
}

#[test]
fn a_rules_msize_and_alias_are_honoured() {
    for options in kinds() {
        let place = place();
        let b = place.at("b");
        let rules = format!(
            "[aliases]\nmedia = \"{}\"\n\
             [[export]]\nclient = \"*\"\nfolder = \"media\"\naccess = \"rw\"\nmax-msize = \"8K\"\n\
             [[export]]\nclient = \"*\"\nfolder = \"{}\"\naccess = \"rw\"\n",
            b.display(),
            place.at("a").display()
        );
        place.write("exports.toml", &rules);
        let exports = place.at("exports.toml");
        let mut words = options.to_vec();
        words.extend(["--exports", exports.to_str().unwrap()]);
        let mut channel = Channel::open(&place, "media", false, &words);
        let stream = channel.stream(Authorisation::Own);
        assert_eq!(channel.offered, 8192, "{options:?}");
        assert_eq!(channel.read(stream, b"file").unwrap(), b"second");
        // Asking for more is answered with no more, and a further stream by the same right gets no more.
        let msize = Msize::MAX.bytes();
        let version = channel.ask(stream, Tmessage::Tversion { msize, version: VERSION });
        assert_eq!(version[3..7], 8192u32.to_le_bytes());
        channel.stream(Authorisation::Sibling(stream));
        assert_eq!(channel.offered, 8192);
        let token = channel.token(&place, "a", &words).0;
        channel.stream(Authorisation::Token(token));
        assert!(channel.offered > 8192);
        let token = channel.token(&place, "media", &words).0;
        channel.stream(Authorisation::Token(token));
        assert_eq!(channel.offered, 8192);
    }
}
