//! `--list`: the mounts of this person and the channels behind them.
//!
//! Asked of each daemon ([`look`]); shown as a table ([`table`]), as JSON ([`json`]), or again and again
//! ([`watch`]).

pub mod json;
pub mod table;
pub mod watch;

use std::io::Write;
use std::time::{Duration, Instant};

use policy::printable;
use rustix::io::Errno;
use transport::local::MessageSocket;

use crate::daemon::control::{self, ChannelReport, Event, FORM, Mount, Request, Want};
use crate::daemon::spawn::{self, Found};
use crate::exit::{Exit, Failure};

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How to show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Show {
    /// As JSON.
    pub json: bool,
    /// Again after so many seconds.
    pub watch: Option<u64>,
    /// Where the logs are, too.
    pub verbose: bool,
}

/// What there is at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// All channels.
    pub channels: Vec<Rated>,
    /// All mounts.
    pub mounts: Vec<Mount>,
    /// What could not be found out, a sentence each; escaped.
    pub problems: Vec<String>,
}

/// A channel and how fast it is: since the last look, or since it began.
#[derive(Clone, Debug)]
pub struct Rated {
    /// What its daemon says.
    pub report: ChannelReport,
    /// Bytes of 9P sent a second.
    pub sent_rate: u64,
    /// Bytes of 9P received a second.
    pub received_rate: u64,
}

/// Shows what there is, as `show` says. Errors are those of writing.
pub fn run(show: Show) -> Result<(), Failure> {
    let shown = match show.watch {
        Some(seconds) => watch::run(show, Duration::from_secs(seconds)),
        None => {
            let look = look(None);
            look.problems.iter().for_each(|problem| eprintln!("warning: {problem}"));
            print(&look, show, &mut std::io::stdout().lock())
        }
    };
    shown.or_else(|error| match error.kind() {
        // Whoever reads has seen enough, as `head` does.
        std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Failure::new(Exit::Other, format!("cannot write: {error}"))),
    })
}

fn print(look: &Look, show: Show, to: &mut impl Write) -> std::io::Result<()> {
    if show.json {
        json::print(look, show.watch.is_some(), to)
    } else {
        table::print(look, show.verbose, to)
    }
}

/// Asks all daemons. Rates are those since `before`, where a channel was there then.
pub fn look(before: Option<&Look>) -> Look {
    let mut look =
        Look { at: Instant::now(), channels: Vec::new(), mounts: Vec::new(), problems: Vec::new() };
    for Found { path, socket } in spawn::connect_all() {
        let name = printable(path.as_os_str().as_encoded_bytes()).to_string();
        let answer = socket.map_err(|errno| errno.to_string()).and_then(|socket| ask(&socket));
        match answer {
            Ok((reports, mounts)) => {
                let at = look.at;
                look.channels.extend(reports.into_iter().map(|report| rated(report, at, before)));
                look.mounts.extend(mounts);
            }
            Err(why) => look.problems.push(format!("the channel daemon at {name}: {why}")),
        }
    }
    look
}

fn ask(socket: &MessageSocket) -> Result<(Vec<ChannelReport>, Vec<Mount>), String> {
    let process = socket.peer_process().unwrap_or(0);
    let wrong = |errno| match errno {
        Errno::AGAIN => format!("process {process} does not answer; it may be stopped"),
        Errno::PROTO => format!("process {process} answers what is not to be understood"),
        errno => errno.to_string(),
    };
    let request = Request { form: FORM, want: Want::List };
    socket
        .set_timeout(PATIENCE)
        .and_then(|()| control::send(socket, &request, None))
        .map_err(wrong)?;
    let (mut reports, mut mounts) = (Vec::new(), Vec::new());
    while let Some((event, _)) = control::receive::<Event>(socket).map_err(wrong)? {
        match event {
            Event::Channel(channel) => reports.push(channel),
            Event::Mount(mount) => mounts.push(mount),
            Event::Failed(failure) => return Err(failure.why),
            _ => return Err(wrong(Errno::PROTO)),
        }
    }
    if reports.is_empty() {
        return Err(format!("process {process} ended without an answer"));
    }
    Ok((reports, mounts))
}

fn rated(report: ChannelReport, now: Instant, before: Option<&Look>) -> Rated {
    let name = |report: &ChannelReport| (report.daemon, report.process);
    let same = |rated: &&Rated| name(&rated.report) == name(&report);
    let last = before.and_then(|look| Some((look.at, look.channels.iter().find(same)?)));
    // A channel that was made anew counts from nothing.
    let last = last.filter(|(_, last)| last.report.age <= report.age);
    let (millis, sent, received) = match last {
        Some((at, last)) => (
            now.duration_since(at).as_millis() as u64,
            report.sent.saturating_sub(last.report.sent),
            report.received.saturating_sub(last.report.received),
        ),
        None => (report.age, report.sent, report.received),
    };
    let rate = |bytes: u64| bytes.saturating_mul(1000) / millis.max(1);
    Rated { sent_rate: rate(sent), received_rate: rate(received), report }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the tests of the forms show.
    pub(crate) fn example() -> Look {
        let mount = Mount {
            server: "work".into(),
            qube: "work".into(),
            folder: "/home/user/My docs".into(),
            mount_point: b"/mnt/docs".to_vec(),
            front_end: "v9fs".into(),
            msize: 524_312,
            read_only: false,
            age: 7_500,
            sent: 33 << 20,
            received: (12 << 30) / 10,
            round_trips: 4_210,
            answered_here: 31_007,
            in_flight: 2,
            p50: Some(214),
            p99: Some(1_850),
            lost: None,
        };
        let other = Mount {
            server: "@default".into(),
            qube: "vault".into(),
            folder: "media".into(),
            mount_point: b"/mnt/a\x1b[1m\xff".to_vec(),
            front_end: "socket".into(),
            msize: 0,
            read_only: true,
            age: 4,
            sent: 0,
            received: 0,
            round_trips: 0,
            answered_here: 0,
            in_flight: 0,
            p50: None,
            p99: None,
            lost: Some("the other qube closed the channel".into()),
        };
        let report = ChannelReport {
            server: "work".into(),
            qube: "work".into(),
            via: "qrexec".into(),
            daemon: 1200,
            process: Some(1234),
            mounts: 1,
            age: 7_501_000,
            sent: 34 << 20,
            received: 2 << 30,
            state: "ok".into(),
            why: None,
            log: "/run/user/1000/qubes-shared-folders/client/work.log".into(),
        };
        let lost = ChannelReport {
            server: "@default".into(),
            qube: String::new(),
            process: None,
            daemon: 1300,
            age: 4_000,
            sent: 0,
            received: 0,
            state: "lost".into(),
            why: Some("the other qube closed the channel".into()),
            log: "journal".into(),
            ..report.clone()
        };
        let at = Instant::now();
        let channels = vec![rated(report, at, None), rated(lost, at, None)];
        Look { at, channels, mounts: vec![mount, other], problems: vec!["one is mute".into()] }
    }

    #[test]
    fn rates_are_since_the_last_look_or_the_beginning() {
        let before = example();
        assert_eq!(before.channels[0].received_rate, (2 << 30) * 1000 / 7_501_000);
        let later = before.at + Duration::from_secs(2);
        let mut report = before.channels[0].report.clone();
        (report.age, report.received) = (report.age + 2_000, report.received + 5_000_000);
        let now = rated(report.clone(), later, Some(&before));
        assert_eq!((now.received_rate, now.sent_rate), (2_500_000, 0));
        // Another channel of the same daemon.
        (report.age, report.received) = (1_000, 3_000);
        assert_eq!(rated(report, later, Some(&before)).received_rate, 3_000);
    }
}
