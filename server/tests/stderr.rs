//! What becomes of the service where nobody hears what it has to say.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

fn refused(stderr: OwnedFd) -> Option<i32> {
    let runtime = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_qvm-folder-server"))
        .env("XDG_RUNTIME_DIR", runtime.path())
        .env("QREXEC_REMOTE_DOMAIN", "work")
        .env("QREXEC_SERVICE_FULL_NAME", "sharedfolders.Nothing")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .status()
        .unwrap()
        .code()
}

#[test]
fn a_stderr_that_nobody_reads_or_that_is_closed_does_no_harm() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    assert_eq!(refused(writer), Some(1));
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    assert_eq!(refused(writer), Some(1));
}
