//! The binary `figures` and what it is made of, with the real programs, as little as shows that it works.
//!
//! It needs this workspace's programs built (`make test` does so). What is measured proves nothing
//! here and is not looked at, only that it is there.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions, not in their helpers

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use benches::channel::Shape;
use benches::figures::Replay;
use benches::harness::Programs;
use benches::harness::pair::Coherence;
use benches::harness::peer;
use benches::harness::served::Served;
use benches::measure::Operation;
use benches::process::family;
use benches::report::json;

const FIGURES: &str = env!("CARGO_BIN_EXE_figures");

fn served(bytes: u64) -> Served {
    let programs = Programs::beside(Path::new(FIGURES)).unwrap();
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    Served::new(&programs, place, &Shape::default(), bytes, Coherence::Strict).unwrap()
}

#[test]
fn every_line_of_a_run_is_written_and_measured() {
    let out = tempfile::tempdir().unwrap();
    let groups = "channel,read,read-large-ring,write,latency,fairness,mounts,memory,copied";
    let run = Command::new(FIGURES)
        .args(["run", "--effort", "trial", "--only", groups, "--out"])
        .arg(out.path())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let record = json::read(&fs::read_to_string(out.path().join("figures.json")).unwrap()).unwrap();
    assert!(record.lines.len() > 30, "{}", record.lines.len());
    let page = fs::read_to_string(out.path().join("figures.md")).unwrap();
    for line in &record.lines {
        assert!(line.value.is_some_and(|value| value.median > 0.0), "{line:?}");
        assert!(line.baseline.is_none() || line.ratio.is_some(), "{line:?}");
        assert!(page.contains(&format!("`{}`", line.name)), "{}", line.name);
    }
    let mut names: Vec<_> = record.lines.iter().map(|line| &line.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), record.lines.len(), "two lines have one name");

    let readme = out.path().join("README.md");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"), &readme).unwrap();
    let update = Command::new(FIGURES)
        .args(["readme", "--figures"])
        .arg(out.path().join("figures.json"))
        .arg("--readme")
        .arg(&readme)
        .output()
        .unwrap();
    assert!(update.status.success(), "{}", String::from_utf8_lossy(&update.stderr));
    let text = fs::read_to_string(readme).unwrap();
    let targets = record.lines.iter().filter(|line| line.target.is_some());
    targets.for_each(|line| assert!(text.contains(&format!("| {} |", line.what)), "{}", line.what));
}

#[test]
fn an_unknown_group_is_refused_with_the_names_of_those_that_there_are() {
    let run = Command::new(FIGURES).args(["run", "--only", "speed"]).output().unwrap();
    assert!(!run.status.success());
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("no group speed") && said.contains("latency"), "{said}");
}

#[test]
fn both_implementations_answer_the_same_requests() {
    let served = served(1 << 20);
    let mut ours = served.session(peer::DIOD_MSIZE).unwrap();
    let (_peer, mut diod) = served.diod().unwrap();
    for session in [&mut ours, &mut diod] {
        for operation in Operation::ALL {
            assert_eq!(session.times(operation, 3).unwrap().len(), 3);
        }
        for depth in [1, 4] {
            session.read(depth, 3 << 20).unwrap();
            session.write(depth, 3 << 20).unwrap();
        }
    }
    assert_eq!(fs::metadata(served.scratch.at("file")).unwrap().len(), 1 << 20);
    assert!(fs::read(served.scratch.at("file")).unwrap().contains(&8));
    assert!(!served.scratch.at("passing").exists());
}

#[test]
fn a_replay_asks_what_the_kernel_asks_and_as_often() {
    let served = served(1);
    let (_peer, session) = served.diod().unwrap();
    let mut client = session.client;
    for replay in Replay::ALL {
        // A tree has 50 files in a folder.
        replay.prepare(&served.scratch, 0, 100).unwrap();
        let (time, requests) = replay.run(&mut client, 0, 100).unwrap();
        assert!(time > Duration::ZERO);
        // Four a name, eighteen or so a new file, 1,378 for a hundred files of git's.
        let expected = match replay {
            Replay::List => 400..=420,
            Replay::Find => 400..=500,
            Replay::GitStatus => 1_100..=1_500,
            Replay::Unpack => 1_800..=2_400,
        };
        assert!(expected.contains(&requests), "{replay:?}: {requests}");
    }
    let unpacked = served.scratch.at("unpack-0/deep/down/file-99.c");
    assert_eq!(fs::metadata(unpacked).unwrap().len(), 2048);
}

#[test]
fn a_pairs_processes_are_found_and_end_with_it() {
    let served = served(1);
    let family = family(&served.pair.roots());
    for part in ["client end", "server end", "relay (client)", "relay (server)"] {
        assert!(family.iter().any(|process| process.part == part), "{part}: {family:?}");
    }
    drop(served);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let lives = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    };
    while family.iter().any(|process| lives(process.pid)) {
        assert!(std::time::Instant::now() < deadline, "{family:?} are left");
        std::thread::sleep(Duration::from_millis(20));
    }
}
