//! What all sessions of a client may have together of fids, and of the nodes behind them.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

mod fs_client;

use std::fs;

use fs_client::{Client, ROOT};
use server::fs::{Export, Limits, Workers, limits};
use transport::id::Fid;
use transport::ninep::Tmessage;

#[test]
fn folders_that_were_removed_behind_a_session_are_bounded_too() {
    let dir = tempfile::tempdir().unwrap();
    let export = Export::open(&dir.path().canonicalize().unwrap(), false).unwrap();
    let limits = Limits { nodes: 1000, fids: 500, ..Limits::for_descriptors(128) };
    let workers = Workers::new(limits);
    let client = Client::with(export.clone(), workers.clone());
    // Each fid stands for a chain of its own, of which nothing is left.
    let mut fids = Vec::new();
    let refused = loop {
        fs::create_dir_all(dir.path().join("d/d/d/d/d/d/d/d")).unwrap();
        let fid = client.next_fid();
        match client.walk_raw(ROOT, fid, &[&b"d"[..]; 8]) {
            Ok(qids) if qids.len() == 8 => fids.push(fid),
            Ok(qids) => break qids.len(),
            Err(_) => break 0,
        }
        fs::remove_dir_all(dir.path().join("d")).unwrap();
        assert!(fids.len() <= 1000 / 8);
    };
    assert!(refused < 8 && fids.len() == 1000 / 8);
    // What is given back is there for others.
    client.clunk(fids[0]).unwrap();
    assert!(client.walk("d/d/d").is_ok());
    // Fids of all sessions together.
    let other = Client::with(export, workers);
    let more = (1000..).map_while(|fid| other.walk_raw(ROOT, Fid(fid), &[]).ok()).count();
    assert_eq!(more, 500 - 2 - (fids.len() - 1) - 1);
    client.clunk(fids[1]).unwrap();
    assert!(other.walk_raw(ROOT, Fid(9), &[]).is_ok());
    assert!(other.walk_raw(Fid(9), Fid(9), &[b"d"]).is_ok(), "one in place needs no other");
}

#[test]
fn what_one_session_holds_of_attributes_is_not_there_for_another() {
    // Not every temporary folder has extended attributes.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    let export = Export::open(&dir.path().canonicalize().unwrap(), false).unwrap();
    let workers = Workers::new(Limits::default());
    let clients = [(); 2].map(|()| Client::with(export.clone(), workers.clone()));
    // Values that are yet to come.
    let size = limits::XATTR as u64;
    let mut sinks = 0;
    let refused = loop {
        let client = &clients[sinks % 2];
        let fid = client.walk("f").unwrap();
        match client.ok(Tmessage::Txattrcreate { fid, name: b"user.x", size, flags: 0 }) {
            Ok(()) => sinks += 1,
            Err(errno) => break errno,
        }
    };
    assert_eq!((refused, sinks), (libc::ENOMEM, limits::XATTR_HELD / limits::XATTR));
}
