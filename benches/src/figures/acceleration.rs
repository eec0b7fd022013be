//! What answering ahead saves: the same with it, without it (`--coherence strict`), and by others, over
//! channels of several lengths; in time, and in round trips of the channel, which no noise disturbs.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use transport::id::Msize;

use super::metadata::Replay;
use super::mount::Native;
use super::{Setting, shape};
use crate::channel::DEFAULT_RING;
use crate::client9p::Client;
use crate::harness::pair::{Coherence, Pair};
use crate::harness::peer::{self, Sshfs};
use crate::harness::scratch::Scratch;
use crate::measure::Session;
use crate::record::{Line, Rounds, interleaved};

/// What is added to a round trip, in milliseconds.
const DELAYS: [u64; 3] = [0, 1, 5];
/// What v9fs asks for with `msize=131096`.
const MSIZE: u32 = 131_096;
/// A delayed conversation without acceleration takes a twentieth of what others work on.
const PART: usize = 20;

/// Few rounds: what is compared differs by more than the noise.
fn rounds(setting: &Setting) -> Rounds {
    Rounds { least: setting.effort.rounds.least.min(2), ..setting.effort.rounds }
}

/// 9P's own requests, and programs in a FUSE mount.
pub fn all(setting: &Setting) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for delay in DELAYS {
        for replay in [Replay::List, Replay::Find, Replay::GitStatus] {
            lines.extend(replayed(setting, replay, delay)?);
        }
        lines.extend(read(setting, delay)?);
    }
    if let Err(why) = peer::sshfs_can_mount() {
        lines.push(Line::missing("FUSE mounts with acceleration", "acceleration/fuse", why));
        return Ok(lines);
    }
    for delay in DELAYS {
        lines.extend(mounted(setting, delay)?);
    }
    Ok(lines)
}

/// Round trips of the channel of `pair` that `work` takes, beside what it gives.
fn counted<T>(pair: &Pair, work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let before = pair.round_trips()?;
    let done = work()?;
    Ok((done, pair.round_trips()? - before))
}

/// Ours with acceleration against ours without and against another.
fn lines(what: &str, name: &str, other: &str, samples: &[Vec<f64>], trips: [u64; 3]) -> Vec<Line> {
    let [on, off, theirs] = samples else { unreachable!("as many as asked") };
    let note = |other: u64| format!("round trips: {} for {other}", trips[0]);
    let line = |who: &str| Line::new(what, &format!("acceleration/{name}/{who}"), "ms", on);
    let against = line(&format!("ours-{other}")).times_less(other, on, theirs);
    vec![
        line("ours-off").times_less("without acceleration", on, off).note(note(trips[1])),
        if trips[2] > 0 { against.note(note(trips[2])) } else { against },
    ]
}

fn replayed(setting: &Setting, replay: Replay, delay: u64) -> Result<Vec<Line>> {
    let files = (setting.effort.files / PART).max(1);
    let scratch = Scratch::new(&setting.place)?;
    let shape = shape(DEFAULT_RING, Duration::from_millis(delay));
    let msize = Msize::new(MSIZE).context("an msize")?;
    let open = |coherence| -> Result<(Pair, Client)> {
        let mut pair = Pair::new(&setting.programs, &shape)?;
        let socket = pair.offer(scratch.path(), coherence)?;
        let client = pair.connect(&socket, msize)?;
        Ok((pair, client))
    };
    let (mut on, mut off) = (open(Coherence::Default)?, open(Coherence::Strict)?);
    let (_peer, mut diod) = peer::diod(&setting.programs, &shape, scratch.path())?;
    let number = Cell::new(0);
    let once = |client: &mut Client| {
        replay.once(client, &scratch, number.replace(number.get() + 1), files)
    };
    let trips: [Cell<u64>; 3] = Default::default();
    let ours = |end: &mut (Pair, Client), trips: &Cell<u64>| {
        let ((time, _), count) = counted(&end.0, || once(&mut end.1))?;
        trips.set(count);
        Ok(time.as_secs_f64() * 1e3)
    };
    let samples = interleaved(
        rounds(setting),
        &mut [&mut || ours(&mut on, &trips[0]), &mut || ours(&mut off, &trips[1]), &mut || {
            let (time, requests) = once(&mut diod)?;
            trips[2].set(requests);
            Ok(time.as_secs_f64() * 1e3)
        }],
    )?;
    let what = format!("v9fs's requests for {} of {files} files, cold, {delay} ms", replay.name());
    let name = format!("{}-{delay}ms", replay.name());
    Ok(lines(&what, &name, "diod", &samples, trips.map(Cell::into_inner)))
}

/// A file from its start, one request after another.
fn read(setting: &Setting, delay: u64) -> Result<Vec<Line>> {
    // Without acceleration each of these is a round trip.
    let bytes = setting.effort.bytes / 8;
    let shape = shape(DEFAULT_RING, Duration::from_millis(delay));
    let served = |coherence| setting.served(&shape, bytes, coherence);
    let (on, off) = (served(Coherence::Default)?, served(Coherence::Strict)?);
    let (mut with, mut without) = (on.session(MSIZE)?, off.session(MSIZE)?);
    let (_peer, mut diod) = on.diod()?;
    let trips: [Cell<u64>; 3] = Default::default();
    let ours = |pair: &Pair, session: &mut Session, trips: &Cell<u64>| {
        let (time, count) = counted(pair, || session.read(1, bytes))?;
        trips.set(count);
        Ok(time.as_secs_f64() * 1e3)
    };
    let samples = interleaved(
        rounds(setting),
        &mut [
            &mut || ours(&on.pair, &mut with, &trips[0]),
            &mut || ours(&off.pair, &mut without, &trips[1]),
            &mut || Ok(diod.read(1, bytes)?.as_secs_f64() * 1e3),
        ],
    )?;
    let what = format!("sequential read of {} MiB, one in flight, {delay} ms", bytes >> 20);
    let trips = trips.map(Cell::into_inner);
    Ok(lines(&what, &format!("read-{delay}ms"), "diod", &samples, trips))
}

/// Programs in mounts: ours with and without, and sshfs.
fn mounted(setting: &Setting, delay: u64) -> Result<Vec<Line>> {
    let small = Setting {
        effort: super::Effort {
            files: (setting.effort.files / PART).max(1),
            bytes: setting.effort.bytes / 8,
            ..setting.effort
        },
        ..setting.clone()
    };
    let scratch = Scratch::new(&setting.place)?;
    let disk = scratch.folder("served")?;
    let shape = shape(DEFAULT_RING, Duration::from_millis(delay));
    let at = |name: &str| scratch.folder(&format!("mounts/{name}"));
    let (at_on, at_off, at_sshfs) = (at("on")?, at("off")?, at("sshfs")?);
    let mount = |place: &Path, options: &[&str]| -> Result<Pair> {
        let mut pair = Pair::new(&setting.programs, &shape)?;
        pair.mount_fuse(&disk, place, options)?;
        Ok(pair)
    };
    let on = mount(&at_on, &[])?;
    let off = mount(&at_off, &["--coherence", "strict"])?;
    let sshfs = Sshfs::mount(&setting.programs, &shape, &disk, &at_sshfs)?;
    let number = Cell::new(0);
    let once = |native: Native, root: &Path| {
        let next = number.replace(number.get() + 1);
        Ok(native.once(root, &disk, &scratch, next, &small)?.as_secs_f64() * 1e3)
    };
    let mut all = Vec::new();
    for native in [Native::ListCold(false), Native::Find, Native::Read] {
        let trips: [Cell<u64>; 3] = Default::default();
        let ours = |pair: &Pair, root: &Path, trips: &Cell<u64>| {
            let (time, count) = counted(pair, || once(native, root))?;
            trips.set(count);
            Ok(time)
        };
        let samples = interleaved(
            rounds(setting),
            &mut [
                &mut || ours(&on, &at_on, &trips[0]),
                &mut || ours(&off, &at_off, &trips[1]),
                &mut || once(native, &at_sshfs),
            ],
        )?;
        let size = match native {
            Native::Read => format!("{} MiB", small.effort.bytes >> 20),
            _ => format!("{} files", small.effort.files),
        };
        let what = format!("FUSE mount: {} of {size}, cold, {delay} ms", native.name());
        let name = format!("fuse-{}-{delay}ms", native.name());
        all.extend(lines(&what, &name, "sshfs", &samples, trips.map(Cell::into_inner)));
    }
    drop((on, off, sshfs));
    Ok(all)
}
