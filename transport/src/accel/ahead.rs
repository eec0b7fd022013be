//! Read-ahead: what a sequential reader is about to ask for is asked for before it does.
//!
//! ```text
//!             next                 asked
//!  ── answered ─┬─ here ─┬─ coming ──┬─ not asked for ──► end of file
//!               └── at most a window ┘
//! ```
//!
//! The kernel reads a file with one request in flight. A *run* is a file that is read from where the
//! request before ended; from its second request on it is asked for a window ahead of the reader, in
//! blocks. A request that a block has the answer of is answered from memory; one whose block is still
//! coming waits for it, and the window grows, so that it is as large as the channel is long and no larger.
//! Requests elsewhere are none of a run's, and a run that is not gone on with gives its memory to others.
//!
//! Only regular files, never beyond the end that their attributes say, only whole answers: a block that
//! came short, or failed, is forgotten with all behind it, and who waits for it is answered by the file
//! server. Nothing older than the coherence time is given out. A run that anything changes is forgotten.
//!
//! Memory: blocks asked for and kept are counted by one [`Store`] for all streams of a channel.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use bytes::Bytes;

use crate::id::{Fid, Tag};

/// Bytes asked for and not given out, of all streams of a channel.
const STORE: usize = 32 << 20;
/// The largest window: 1.5 GB/s and 5 ms of round trip are 7.5 MB on their way, and the reader is to find
/// some of it here.
const WINDOW: u64 = 12 << 20;
/// The least: below it the requests cost more than the waiting.
const LEAST: u64 = 256 << 10;
/// Below it a window grows fourfold: two round trips instead of four until a long channel is full.
const LONG: u64 = 2 << 20;
/// Runs of a fid: programs that read two places in turn, and a few more.
const RUNS: usize = 4;
/// The smallest block.
const BLOCK: u32 = 64 << 10;

/// The memory that all runs of a channel share.
#[derive(Debug, Default)]
pub struct Store {
    used: AtomicUsize,
}

/// A part of it, given back when dropped.
#[derive(Debug)]
struct Slot {
    store: Arc<Store>,
    bytes: usize,
}

impl Store {
    fn take(self: &Arc<Store>, bytes: usize) -> Option<Slot> {
        let more = |used: usize| used.checked_add(bytes).filter(|&used| used <= STORE);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Slot { store: Arc::clone(self), bytes })
    }

    /// The largest window that a run may have: a run alone fills the channel, many share the memory.
    fn window(&self) -> u64 {
        let used = self.used.load(Ordering::Relaxed);
        if used > STORE / 2 { WINDOW / 8 } else { WINDOW }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.store.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What becomes of a `Tread` of the kernel's.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// It goes to the file server.
    Forward,
    /// It is answered with this.
    Answer(Vec<Bytes>),
    /// Its answer is on its way.
    Wait,
}

/// What became of a `Tread` that waited.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    /// It is answered with this.
    Answer(Tag, Vec<Bytes>),
    /// It goes to the file server.
    Forward(Wanted),
}

/// A `Tread` of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The kernel's tag.
    pub tag: Tag,
    /// The kernel's fid.
    pub fid: Fid,
    /// From where.
    pub offset: u64,
    /// How many bytes.
    pub count: u32,
}

impl Wanted {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.count.into())
    }
}

/// A question for the file server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The attributes of a fid's file: how long is it?
    Size(Fid),
    /// A block.
    Block {
        /// The kernel's fid.
        fid: Fid,
        /// The block's name, for [`Ahead::arrived`].
        id: u64,
        /// From where.
        offset: u64,
        /// How many bytes.
        count: u32,
    },
}

#[derive(Debug)]
struct Block {
    id: u64,
    offset: u64,
    /// Bytes that it is to have.
    len: u32,
    /// The file is to end behind it: one byte more has been asked for, to see.
    last: bool,
    sent: Duration,
    data: Option<Vec<Bytes>>,
    _slot: Slot,
}

impl Block {
    fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// A file that is read from one place on.
#[derive(Debug)]
struct Run {
    /// Where the next request begins, if it goes on.
    next: u64,
    /// How often it has gone on.
    steps: u32,
    /// How many bytes the last request was for.
    count: u32,
    /// What has been asked for ends here.
    asked: u64,
    window: u64,
    /// One behind the other, the last one ends at `asked`.
    blocks: VecDeque<Block>,
    waiting: VecDeque<Wanted>,
    /// For the least recently used.
    used: u64,
}

/// A fid that is read.
#[derive(Debug, Default)]
struct File {
    path: Option<u64>,
    /// Its end, as far as it is known.
    size: Option<u64>,
    /// It has been asked for.
    sizing: bool,
    runs: Vec<Run>,
}

/// The reading of one stream.
#[derive(Debug)]
pub struct Ahead {
    coherence: Duration,
    store: Arc<Store>,
    files: BTreeMap<Fid, File>,
    asks: VecDeque<Ask>,
    done: VecDeque<Done>,
    /// The tags of all requests that wait.
    waiting: BTreeSet<Tag>,
    next: u64,
    clock: u64,
    /// The time of the last request, and what a message carries at most.
    now: Duration,
    payload: u32,
}

impl Ahead {
    /// Nothing is read; nothing will be given out that is older than `coherence`.
    pub fn new(coherence: Duration, store: Arc<Store>) -> Ahead {
        Ahead {
            coherence,
            store,
            files: BTreeMap::new(),
            asks: VecDeque::new(),
            done: VecDeque::new(),
            waiting: BTreeSet::new(),
            next: 0,
            clock: 0,
            now: Duration::ZERO,
            payload: 0,
        }
    }

    /// Takes a `Tread` of the kernel's, of a node with the path `path` whose size may be known; a message
    /// carries at most `payload` bytes.
    pub fn read(
        &mut self,
        now: Duration,
        wanted: Wanted,
        path: Option<u64>,
        size: Option<u64>,
        payload: u32,
    ) -> Read {
        self.clock += 1;
        (self.now, self.payload) = (now, payload);
        if let (Some(path), Some(size)) = (path, size) {
            self.set_size(path, size);
        }
        let file = self.files.entry(wanted.fid).or_default();
        file.path = path;
        file.size = size.or(file.size);
        if wanted.count == 0 {
            return Read::Forward;
        }
        let Some(at) = file.runs.iter().position(|run| run.next == wanted.offset) else {
            self.begin(wanted);
            return Read::Forward;
        };
        let run = &mut file.runs[at];
        run.used = self.clock;
        run.steps = run.steps.saturating_add(1);
        run.next = wanted.end();
        run.count = wanted.count;
        if file.size.is_none() {
            if !file.sizing {
                file.sizing = true;
                self.asks.push_back(Ask::Size(wanted.fid));
            }
            run.asked = run.next;
            return Read::Forward;
        }
        // What has been kept too long is asked for again, and less of it.
        if run.blocks.iter().any(|block| now.saturating_sub(block.sent) > self.coherence) {
            run.window = (run.window / 2).max(LEAST);
            self.forget_run(wanted.fid, at);
        }
        let Some(run) = self.run(wanted.fid, at) else { return Read::Forward };
        if run.covers(&wanted) {
            // Behind those that wait: what is taken takes what lies before it along.
            if run.waiting.is_empty() {
                if let Some(answer) = run.take(&wanted) {
                    self.go_on(wanted.fid, at);
                    return Read::Answer(answer);
                }
                run.window *= if run.window < LONG { 4 } else { 2 };
            }
            run.waiting.push_back(wanted);
            self.waiting.insert(wanted.tag);
            self.go_on(wanted.fid, at);
            return Read::Wait;
        }
        // The reader is ahead of what was asked for, or at the end.
        self.forget_run(wanted.fid, at);
        self.go_on(wanted.fid, at);
        Read::Forward
    }

    /// The next question for the file server.
    pub fn poll_ask(&mut self) -> Option<Ask> {
        while let Some(ask) = self.asks.pop_front() {
            let wanted = match &ask {
                Ask::Size(fid) => self.files.contains_key(fid),
                Ask::Block { fid, id, .. } => self.files.get(fid).is_some_and(|file| {
                    file.runs.iter().flat_map(|run| &run.blocks).any(|block| block.id == *id)
                }),
            };
            if wanted {
                return Some(ask);
            }
        }
        None
    }

    /// The next request that waits no more.
    pub fn poll_done(&mut self) -> Option<Done> {
        let done = self.done.pop_front()?;
        let (Done::Answer(tag, _) | Done::Forward(Wanted { tag, .. })) = done;
        self.waiting.remove(&tag);
        Some(done)
    }

    /// The size of a fid's file, or none where it is not regular or the file server did not say.
    pub fn sized(&mut self, fid: Fid, size: Option<u64>) {
        if let Some(file) = self.files.get_mut(&fid) {
            // Without one nothing is asked for, and not again either.
            file.size = Some(size.unwrap_or(0));
            file.sizing = false;
            let runs = file.runs.len();
            (0..runs).for_each(|at| self.go_on(fid, at));
        }
    }

    /// The file with the path `path` has been seen to be `size` bytes long.
    pub fn set_size(&mut self, path: u64, size: u64) {
        let other =
            |file: &File| file.path == Some(path) && file.size.is_some_and(|old| old != size);
        let fids: Vec<Fid> =
            self.files.iter().filter(|(_, file)| other(file)).map(|(fid, _)| *fid).collect();
        for fid in fids {
            self.change(fid);
            self.sized(fid, Some(size));
        }
    }

    /// A block has come with `data`, or has not come at all.
    pub fn arrived(&mut self, fid: Fid, id: u64, data: Option<Vec<Bytes>>) {
        let Some(file) = self.files.get_mut(&fid) else { return };
        let found =
            file.runs.iter().enumerate().find_map(|(at, run)| {
                Some((at, run.blocks.iter().position(|block| block.id == id)?))
            });
        let Some((at, number)) = found else { return };
        let run = &mut file.runs[at];
        let block = &mut run.blocks[number];
        let whole = data
            .as_ref()
            .is_some_and(|data| data.iter().map(Bytes::len).sum::<usize>() == block.len as usize);
        if !whole {
            // The file is shorter than it was, or cannot be read: nothing behind it is good.
            file.size = None;
            self.forget_run(fid, at);
            return;
        }
        block.data = data;
        while let Some(wanted) = run.waiting.front().copied() {
            let done = match run.take(&wanted) {
                Some(answer) => Done::Answer(wanted.tag, answer),
                None if run.covers(&wanted) => break,
                None => Done::Forward(wanted),
            };
            run.waiting.pop_front();
            self.done.push_back(done);
        }
    }

    /// Whether the kernel's request `tag` waits here.
    pub fn is_waiting(&self, tag: Tag) -> bool {
        self.waiting.contains(&tag)
    }

    /// Forgets that the kernel's request `tag` waits, if it does.
    pub fn give_up(&mut self, tag: Tag) {
        if !self.waiting.remove(&tag) {
            return;
        }
        for run in self.files.values_mut().flat_map(|file| &mut file.runs) {
            run.waiting.retain(|wanted| wanted.tag != tag);
        }
        self.done.retain(|done| match done {
            Done::Answer(of, _) | Done::Forward(Wanted { tag: of, .. }) => *of != tag,
        });
    }

    /// The tags of the requests that wait.
    pub fn waiting(&self) -> &BTreeSet<Tag> {
        &self.waiting
    }

    /// The kernel has ended a fid.
    pub fn end(&mut self, fid: Fid) {
        if let Some(file) = self.files.remove(&fid) {
            let waiting = file.runs.into_iter().flat_map(|run| run.waiting);
            self.done.extend(waiting.map(Done::Forward));
        }
    }

    /// A node changes.
    pub fn change_node(&mut self, path: u64) {
        let fids = self.files.iter().filter(|(_, file)| file.path == Some(path));
        let fids: Vec<Fid> = fids.map(|(fid, _)| *fid).collect();
        fids.into_iter().for_each(|fid| self.change(fid));
    }

    /// Anything may have changed.
    pub fn change_all(&mut self) {
        let fids: Vec<Fid> = self.files.keys().copied().collect();
        fids.into_iter().for_each(|fid| self.change(fid));
    }

    /// A new session: nothing waits.
    pub fn clear(&mut self) {
        self.files.clear();
        self.asks.clear();
        self.done.clear();
        self.waiting.clear();
    }

    fn change(&mut self, fid: Fid) {
        let Some(file) = self.files.get_mut(&fid) else { return };
        (file.size, file.sizing) = (None, false);
        for at in 0..file.runs.len() {
            self.forget_run(fid, at);
        }
    }

    fn run(&mut self, fid: Fid, at: usize) -> Option<&mut Run> {
        self.files.get_mut(&fid)?.runs.get_mut(at)
    }

    /// What has been asked for of a run is not used; who waits for it is answered by the file server.
    fn forget_run(&mut self, fid: Fid, at: usize) {
        let Some(run) = self.files.get_mut(&fid).and_then(|file| file.runs.get_mut(at)) else {
            return;
        };
        run.blocks.clear();
        run.asked = run.next;
        self.done.extend(run.waiting.drain(..).map(Done::Forward));
    }

    /// A request that goes on with nothing may be a run's first.
    fn begin(&mut self, wanted: Wanted) {
        let used = self.clock;
        let Some(file) = self.files.get_mut(&wanted.fid) else { return };
        let run = Run {
            next: wanted.end(),
            steps: 0,
            count: wanted.count,
            asked: wanted.end(),
            window: LEAST.max(2 * u64::from(wanted.count)),
            blocks: VecDeque::new(),
            waiting: VecDeque::new(),
            used,
        };
        if file.runs.len() < RUNS {
            file.runs.push(run);
            return;
        }
        let idle = file.runs.iter_mut().filter(|run| run.waiting.is_empty());
        if let Some(oldest) = idle.min_by_key(|run| run.used) {
            *oldest = run;
        }
    }

    /// Asks for what the reader will want next.
    fn go_on(&mut self, fid: Fid, at: usize) {
        let (now, most) = (self.now, self.store.window());
        let Some(file) = self.files.get_mut(&fid) else { return };
        let (Some(run), Some(size)) = (file.runs.get_mut(at), file.size) else { return };
        if run.steps == 0 {
            return;
        }
        run.window = run.window.clamp(LEAST, most);
        let goal = run.next.saturating_add(run.window).min(size);
        let half = u32::try_from(run.window / 2).unwrap_or(u32::MAX);
        let block = run.count.max(BLOCK.min(half)).min(self.payload);
        if block == 0 {
            return;
        }
        while run.asked < goal {
            // A piece of a block is not worth a request, unless the file ends there.
            let left = u32::try_from(size - run.asked).unwrap_or(u32::MAX);
            let (len, last) = if left < block { (left, true) } else { (block, false) };
            if run.asked > run.next && run.asked + u64::from(len) > goal && goal < size {
                break;
            }
            let Some(slot) = self.store.take(len as usize) else { break };
            let (id, offset) = (self.next, run.asked);
            self.next += 1;
            run.asked += u64::from(len);
            let block = Block { id, offset, len, last, sent: now, data: None, _slot: slot };
            run.blocks.push_back(block);
            self.asks.push_back(Ask::Block { fid, id, offset, count: len + u32::from(last) });
        }
    }
}

impl Run {
    /// Whether what has been asked for has the answer to a request.
    fn covers(&self, wanted: &Wanted) -> bool {
        let Some((first, last)) = self.blocks.front().zip(self.blocks.back()) else { return false };
        first.offset <= wanted.offset
            && (wanted.end() <= last.end() || (last.last && wanted.offset < last.end()))
    }

    /// The answer to a request, if all of it is here. What lies before its end is forgotten.
    fn take(&mut self, wanted: &Wanted) -> Option<Vec<Bytes>> {
        if !self.covers(wanted) {
            return None;
        }
        let end = wanted.end();
        let of_it = |block: &&Block| block.offset < end && wanted.offset < block.end();
        if self.blocks.iter().filter(of_it).any(|block| block.data.is_none()) {
            return None;
        }
        let mut answer = Vec::new();
        for block in self.blocks.iter().filter(of_it) {
            let mut at = block.offset;
            for piece in block.data.iter().flatten() {
                let (from, to) = (at.max(wanted.offset), (at + piece.len() as u64).min(end));
                if from < to {
                    answer.push(piece.slice((from - at) as usize..(to - at) as usize));
                }
                at += piece.len() as u64;
            }
        }
        // Those that wait for less are before this one.
        while self.blocks.front().is_some_and(|block| block.end() <= end) {
            self.blocks.pop_front();
        }
        Some(answer)
    }
}

#[cfg(test)]
mod tests;
