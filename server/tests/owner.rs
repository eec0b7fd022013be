//! What the owner of the folders sees and orders, through the real binary: `--list`, `--disconnect`,
//! `--explain`.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod call;

use std::fs;
use std::process::Output;

use rustix::process::{Signal, kill_process};
use transport::local::MessageSocket;
use transport::mux::Authorisation;

use call::{Channel, KINDS, Place, User, in_time, users};

fn owner(place: &Place, words: &[&str]) -> Output {
    place.command(words).output().unwrap()
}

/// A command's exit code, and what it said on stdout and stderr.
fn said(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn listed(place: &Place) -> Vec<String> {
    let (code, text, _) = said(owner(place, &["--list"]));
    assert_eq!(code, Some(0));
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    assert_eq!(lines.next().unwrap(), "CLIENT FOLDER ACCESS AGE FROM CLIENT TO CLIENT");
    lines.collect()
}

#[test]
fn what_is_mounted_is_listed_and_a_folder_of_it_ended() {
    for user in users() {
        for options in KINDS {
            let mut place = Place::new(user);
            place.write("a/file", "first");
            place.write("b/file", "second");
            let mut work = Channel::open(&place, "a", false, options);
            let a = work.stream(Authorisation::Own);
            let token = work.token(&place, "b", options).0;
            let b = work.stream(Authorisation::Token(token));
            let waits = work.token(&place, "b", options).0;
            place.client = "home";
            let mut home = Channel::open(&place, "b", true, options);
            let other = home.stream(Authorisation::Own);
            let lines = listed(&place);
            let path = |name| place.at(name).display().to_string();
            let starts = [
                format!("home {} ro ", path("b")),
                format!("work {} rw ", path("a")),
                format!("work {} rw ", path("b")),
            ];
            assert_eq!(lines.len(), 3, "{lines:?}");
            for (line, start) in lines.iter().zip(&starts) {
                assert!(line.starts_with(start), "{line}");
                let numbers: Vec<u64> =
                    line.split(' ').skip(4).map(|number| number.parse().unwrap()).collect();
                assert!(numbers.len() == 2 && numbers.iter().all(|&n| n > 0), "{line}");
            }
            let (code, text, _) = said(owner(&place, &["--disconnect", "work", &path("b")]));
            assert_eq!((code, text.as_str()), (Some(0), "ended 1 of work's mounts\n"));
            assert_eq!(work.end_of(b), "disconnected: the owner of the folder ended it");
            assert_eq!(work.read(a, b"file").unwrap(), b"first");
            assert_eq!(home.read(other, b"file").unwrap(), b"second");
            // What was permitted and not yet used is taken back with it.
            let refused = work.try_stream(Authorisation::Token(waits)).unwrap_err();
            assert!(refused.starts_with("not permitted"), "{refused}");
            assert_eq!(listed(&place).len(), 2);
            let again = owner(&place, &["--disconnect", "work", &path("b")]);
            let (code, _, error) = said(again);
            assert_eq!(code, Some(1));
            assert!(error.contains("work has nothing of that mounted"), "{error}");
            let (code, text, _) = said(owner(&place, &["--disconnect", "work"]));
            assert_eq!((code, text.as_str()), (Some(0), "ended 1 of work's mounts\n"));
            assert_eq!(work.end_of(a), "disconnected: the owner of the folder ended it");
            assert!(work.ended().success());
            assert_eq!(place.sockets(), 1);
            assert_eq!(home.read(other, b"file").unwrap(), b"second");
            assert!(place.log().contains("work: the channel ended by its owner's order"));
        }
    }
}

#[test]
fn a_channel_that_does_not_obey_is_ended_all_the_same() {
    let place = Place::new(User::Same);
    place.write("a/file", "first");
    let mut channel = Channel::open(&place, "a", false, &[]);
    channel.stream(Authorisation::Own);
    let (_, service) = channel.pids();
    kill_process(service.unwrap(), Signal::STOP).unwrap();
    let path = place.at("a").display().to_string();
    let (code, _, error) = said(owner(&place, &["--disconnect", "work", &path]));
    assert_eq!(code, Some(1));
    assert!(error.contains("`--disconnect work` ends all"), "{error}");
    let (code, ..) = said(owner(&place, &["--disconnect", "work"]));
    assert_eq!(code, Some(0));
    in_time("the end", || channel.child.try_wait().unwrap());
    assert_eq!(place.sockets(), 0);
}

#[test]
fn what_a_taken_over_service_says_is_bounded_and_escaped() {
    let place = Place::new(User::Same);
    // Makes the folder.
    assert!(listed(&place).is_empty());
    let name = format!("evil.{}", "0".repeat(32));
    let socket = place.at("run/qubes-shared-folders/server").join(name);
    let desk = MessageSocket::listen(&socket).unwrap();
    std::thread::spawn(move || {
        for flood in [false, true] {
            let visitor = desk.accept().unwrap();
            let _ = visitor.receive();
            let line = [&[0u8; 25][..], b"/srv/\x1b[2J\x1b]0;owned\x07\xe2\x80\xae"].concat();
            let _ = visitor.send(&line, &[]);
            while flood && visitor.send(&line, &[]).is_ok() {}
        }
    });
    let shown = listed(&place);
    let line = r"evil /srv/\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e} rw 0s 0 0";
    assert_eq!(shown, [line]);
    let shown = listed(&place);
    assert!(shown.len() == 1 && shown[0].starts_with("evil (does not answer"), "{shown:?}");
}

#[test]
fn which_rule_decides_is_explained() {
    let place = Place::new(User::Same);
    let rules = "[aliases]\nmedia = \"/srv/media\"\n\
                 [[export]]\nclient = \"work\"\nfolder = \"media\"\naccess = \"ro\"\n\
                 max-msize = \"64K\"\n\
                 [[export]]\nclient = \"*\"\nfolder = \"/srv/media/private\"\naccess = \"deny\"\n";
    place.write("exports.toml", rules);
    let file = place.at("exports.toml");
    let file = file.to_str().unwrap();
    let explain = |client: &str, folder: &str| {
        said(owner(&place, &["--exports", file, "--explain", client, folder]))
    };
    let media = "client = \"work\", folder = \"/srv/media\", access = \"ro\"";
    let private = "client = \"*\", folder = \"/srv/media/private\", access = \"deny\"";
    for (client, folder, code, text) in [
        (
            "work",
            "/srv/media/films",
            0,
            format!(
                "work may have /srv/media/films, for reading only, with an msize of 65536 at the \
                 most\n  {file}:3: {media}\n"
            ),
        ),
        (
            "work",
            "media",
            1,
            format!(
                "work may not have media\n  a folder in it is denied, and whoever has /srv/media \
                 has all that is in it: {file}:8: {private}\n"
            ),
        ),
        (
            "work",
            "/srv/media/private/x",
            1,
            format!("work may not have /srv/media/private/x\n  {file}:8: {private}\n"),
        ),
        (
            "home",
            "/srv/media",
            1,
            format!("home may not have /srv/media\n  no rule in {file} permits it\n"),
        ),
        ("home", "other", 1, format!("home may not have other\n  {file} has no such alias\n")),
    ] {
        assert_eq!(explain(client, folder), (Some(code), text, String::new()), "{client} {folder}");
    }
    let (code, _, error) = explain("1x", "/srv");
    assert_eq!(code, Some(1));
    assert!(error.contains("1x is no qube"), "{error}");
    fs::write(file, "[[export]]\nclient = 1\n").unwrap();
    let (code, text, error) = explain("work", "/srv");
    assert_eq!((code, text.as_str()), (Some(1), ""));
    assert!(error.contains(&format!("nobody may have anything: {file}:2:10: 1: ")), "{error}");
}
