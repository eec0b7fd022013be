//! What processes cost: CPU time, times they slept, memory at its highest, and system calls.
//!
//! All but the last is read from /proc around a measurement and costs it nothing. System calls are
//! counted by strace in a run of its own, since it slows down what it watches.
//!
//! CPU time is the scheduler's own sum over the threads that live (`/proc/PID/task/*/schedstat`,
//! nanoseconds), or the clock ticks of `/proc/PID/stat` where a kernel has no such sum.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::find;

/// Ticks a second in /proc/PID/stat, whatever the kernel's own clock (proc(5), `USER_HZ`).
const USER_HZ: f64 = 100.0;

/// A process of what is measured.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Process {
    /// What it is there for.
    pub part: &'static str,
    /// Its id.
    pub pid: u32,
}

/// What a process has used so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// CPU time of its living threads.
    pub cpu: Duration,
    /// How often they went to sleep, each of which somebody has to wake.
    pub sleeps: u64,
    /// The most memory that it had at once, in bytes.
    pub peak: u64,
}

/// All descendants of the processes `roots`, and those themselves.
pub fn family(roots: &[u32]) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents: BTreeMap<u32, u32> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut family: Vec<u32> = roots.to_vec();
    let mut at = 0;
    while let Some(&of) = family.get(at) {
        family.extend(parents.iter().filter(|(_, parent)| **parent == of).map(|(pid, _)| *pid));
        at += 1;
    }
    let mut all: Vec<_> = family.into_iter().map(|pid| Process { part: part(pid), pid }).collect();
    all.sort();
    all
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; the last bracket ends it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The part that a process has, by its program and its first word.
fn part(pid: u32) -> &'static str {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    let program = words.next().unwrap_or_default().into_owned();
    let first = words.next().unwrap_or_default();
    let name = Path::new(&program).file_name().and_then(|name| name.to_str()).unwrap_or("");
    match (name, &*first) {
        ("qvm-mount-folder", "--daemon") => "client end",
        ("qvm-folder-server", _) => "server end",
        ("qrexec-standin", "--as-agent") => "relay (server)",
        ("qrexec-standin", _) => "relay (client)",
        ("diod", _) => "diod",
        ("sshfs", _) => "sshfs",
        ("sftp-server", _) => "sftp-server",
        _ => "other",
    }
}

/// What a process has used; nothing where it is gone.
pub fn usage(pid: u32) -> Usage {
    let mut usage = Usage::default();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut nanoseconds = 0;
    for task in tasks {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let first = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
        nanoseconds += first(&read("schedstat")).unwrap_or(0);
        usage.sleeps += field(&read("status"), "voluntary_ctxt_switches:").unwrap_or(0);
    }
    usage.cpu = Duration::from_nanos(nanoseconds);
    if nanoseconds == 0 {
        usage.cpu = ticks(pid).unwrap_or_default();
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    usage.peak = field(&status, "VmHWM:").unwrap_or(0) * 1024;
    usage
}

fn ticks(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / USER_HZ))
}

/// The number behind `name` at the start of a line of a status file.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What each part used while `work` ran, several processes of a part together.
///
/// # Errors
/// Those of `work`.
pub fn used_by(
    family: &[Process],
    work: impl FnOnce() -> Result<()>,
) -> Result<BTreeMap<&'static str, Usage>> {
    let before: Vec<Usage> = family.iter().map(|process| usage(process.pid)).collect();
    work()?;
    let mut parts: BTreeMap<&'static str, Usage> = BTreeMap::new();
    for (process, before) in family.iter().zip(before) {
        let after = usage(process.pid);
        let part = parts.entry(process.part).or_default();
        part.cpu += after.cpu.saturating_sub(before.cpu);
        part.sleeps += after.sleeps.saturating_sub(before.sleeps);
        part.peak += after.peak;
    }
    Ok(parts)
}

/// How often the processes of `family` that are `part` make which system call while `work` runs.
///
/// # Errors
/// strace is not there or may not watch, or `work` fails.
pub fn system_calls(
    family: &[Process],
    part: &str,
    work: impl FnOnce() -> Result<()>,
) -> Result<BTreeMap<String, u64>> {
    let strace = find("strace").context("strace is not there\nhint: install the package strace")?;
    let pids = family.iter().filter(|process| process.part == part);
    let folder = tempfile::tempdir()?;
    let table = folder.path().join("calls");
    let mut command = Command::new(strace);
    command.args(["-f", "-c", "-o"]).arg(&table);
    let mut watched = 0;
    for process in pids {
        command.args(["-p", &process.pid.to_string()]);
        watched += 1;
    }
    anyhow::ensure!(watched > 0, "no process is the {part}");
    let mut strace = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn()?;
    let mut said = BufReader::new(strace.stderr.take().context("a pipe")?).lines();
    while watched > 0 {
        match said.next() {
            // One more line for each thread beyond the first; those may come later.
            Some(Ok(line)) if line.contains("attached") => watched -= 1,
            Some(Ok(line)) => bail!("strace does not watch: {line}"),
            _ => bail!("strace does not watch: {}", strace.wait()?),
        }
    }
    let done = work();
    kill_process(Pid::from_child(&strace), Signal::INT)?;
    said.for_each(drop);
    strace.wait()?;
    done?;
    Ok(calls(&read(&table)?))
}

fn read(table: &Path) -> Result<String> {
    fs::read_to_string(table).context("strace wrote no table")
}

/// The rows of strace's table: share, seconds, microseconds a call, calls, perhaps errors, name.
fn calls(table: &str) -> BTreeMap<String, u64> {
    let rows = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.last().filter(|name| **name != "total")?;
        Some(((*name).to_owned(), words.get(3)?.parse().ok()?))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_straces_is_understood() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n \
                      60.00    0.000300           3       100           epoll_wait\n \
                      40.00    0.000200           2        99         3 read\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.000500           2       199         3 total\n";
        let expected = [("epoll_wait".to_owned(), 100), ("read".to_owned(), 99)];
        assert_eq!(calls(table), expected.into());
    }

    #[test]
    fn what_this_process_computes_is_its_usage() {
        let me = std::process::id();
        let family = family(&[me]);
        assert!(family.iter().any(|process| process.pid == me && process.part == "other"));
        let own = [Process { part: "other", pid: me }];
        let used = used_by(&own, || {
            let start = std::time::Instant::now();
            let mut sum = 0_u64;
            while start.elapsed() < Duration::from_millis(100) {
                sum = std::hint::black_box(sum.wrapping_add(1));
            }
            Ok(())
        });
        let used = used.unwrap()["other"];
        assert!(used.cpu >= Duration::from_millis(5), "{used:?}");
        assert!(used.peak > 1 << 20);
    }

    #[test]
    fn a_child_is_of_the_family() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let family = family(&[std::process::id()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(family.iter().any(|process| process.pid == child.id()));
    }
}
