//! The list as JSON for programs; qvm-mount-folder(1) documents it.
//!
//! A path that is no UTF-8 has its bytes beside it. Names and numbers here stay as they are: others are
//! added.

use std::io::Write;

use serde::Serialize;

use super::Look;

#[derive(Serialize)]
struct List<'a> {
    mounts: Vec<Mount<'a>>,
    channels: Vec<Channel<'a>>,
    problems: &'a [String],
}

#[derive(Serialize)]
struct Mount<'a> {
    server: &'a str,
    qube: &'a str,
    folder: &'a str,
    mount_point: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mount_point_bytes: Option<&'a [u8]>,
    front_end: &'a str,
    msize: u32,
    access: &'static str,
    age_seconds: u64,
    sent_bytes: u64,
    received_bytes: u64,
    in_flight: u32,
    round_trips: u64,
    answered_here: u64,
    round_trip_p50_us: Option<u64>,
    round_trip_p99_us: Option<u64>,
    state: &'static str,
    why: Option<&'a str>,
}

#[derive(Serialize)]
struct Channel<'a> {
    server: &'a str,
    qube: &'a str,
    via: &'a str,
    daemon: u32,
    process: Option<u32>,
    mounts: usize,
    age_seconds: u64,
    sent_bytes: u64,
    received_bytes: u64,
    sent_bytes_per_second: u64,
    received_bytes_per_second: u64,
    state: &'a str,
    why: Option<&'a str>,
    log: &'a str,
}

/// Writes it, in one line where `line` says so. Errors are those of writing.
pub fn print(look: &Look, line: bool, to: &mut impl Write) -> std::io::Result<()> {
    let mounts = look.mounts.iter().map(|mount| Mount {
        server: &mount.server,
        qube: &mount.qube,
        folder: &mount.folder,
        mount_point: String::from_utf8_lossy(&mount.mount_point).into_owned(),
        mount_point_bytes: match std::str::from_utf8(&mount.mount_point) {
            Ok(_) => None,
            Err(_) => Some(&mount.mount_point),
        },
        front_end: &mount.front_end,
        msize: mount.msize,
        access: if mount.read_only { "ro" } else { "rw" },
        age_seconds: mount.age,
        sent_bytes: mount.sent,
        received_bytes: mount.received,
        in_flight: mount.in_flight,
        round_trips: mount.round_trips,
        answered_here: mount.answered_here,
        round_trip_p50_us: mount.p50,
        round_trip_p99_us: mount.p99,
        state: if mount.lost.is_some() { "lost" } else { "ok" },
        why: mount.lost.as_deref(),
    });
    let channels = look.channels.iter().map(|rated| {
        let report = &rated.report;
        Channel {
            server: &report.server,
            qube: &report.qube,
            via: &report.via,
            daemon: report.daemon,
            process: report.process,
            mounts: report.mounts,
            age_seconds: report.age / 1000,
            sent_bytes: report.sent,
            received_bytes: report.received,
            sent_bytes_per_second: rated.sent_rate,
            received_bytes_per_second: rated.received_rate,
            state: &report.state,
            why: report.why.as_deref(),
            log: &report.log,
        }
    });
    let list =
        List { mounts: mounts.collect(), channels: channels.collect(), problems: &look.problems };
    if line {
        serde_json::to_writer(&mut *to, &list)?;
    } else {
        serde_json::to_writer_pretty(&mut *to, &list)?;
    }
    writeln!(to)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_form_that_is_documented() {
        let look = super::super::tests::example();
        let mut text = Vec::new();
        super::print(&look, false, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        crate::snapshot::compare("list-example.json", &text);
        // A terminal obeys nothing in it.
        assert!(!text.contains('\x1b'));
        let mut line = Vec::new();
        super::print(&look, true, &mut line).unwrap();
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
    }
}
