//! What is known of names and nodes without asking: the client end's memory of hints.
//!
//! Names lead from a folder to a node, or say that there is none; nodes have attributes and names of
//! extended attributes. Both are known by the path of their qid, which is unique in what was mounted.
//! What is known is good for the coherence time from when it was *asked* for; what the far end watches
//! is good until it is taken back, as long as the far end has been heard of within that time, so that
//! in neither case anything older than it is shown.
//!
//! Memory: what all streams of a channel know is counted by one [`Budget`]. When that is spent, what is
//! too old goes; where nothing is, nothing new is learned.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use super::hint::{Entry, Hint, NO_XATTRS, WATCHED, Xattrs};
use crate::ninep::message::Attributes;
use crate::ninep::{Qid, QidKind};

/// Names and nodes that all streams of a channel may know together, some 400 bytes each.
const MOST: usize = 64 << 10;
/// How long what is watched is good at the longest: what no watch sees, such as a change through a
/// shared mapping, is seen then.
pub const LONGEST: Duration = Duration::from_secs(30);
/// Changes that are remembered one by one. With more, hints that were asked for before are not used.
const CHANGES: usize = 1024;

/// What the streams of a channel may remember.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicUsize,
}

impl Budget {
    fn take(&self) -> bool {
        let more = |used: usize| (used < MOST).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }
}

/// A node's attributes, as `Rgetattr` gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Which of them are valid.
    pub valid: u64,
    /// The node's qid.
    pub qid: Qid,
    /// The attributes.
    pub attributes: Attributes,
}

/// Since when something is known, and whether it is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Age {
    since: Duration,
    watched: bool,
}

#[derive(Debug)]
struct Known {
    age: Age,
    stat: Stat,
    /// The names of its extended attributes in their wire form, if they are known.
    xattrs: Option<Box<[u8]>>,
}

#[derive(Debug)]
struct Child {
    age: Age,
    qid: Option<Qid>,
}

type Names = BTreeMap<Box<[u8]>, Child>;

/// What one stream knows.
#[derive(Debug)]
pub struct Cache {
    coherence: Duration,
    budget: Arc<Budget>,
    names: BTreeMap<u64, Names>,
    nodes: BTreeMap<u64, Known>,
    /// How many of the names lead to each node.
    leads: BTreeMap<u64, u32>,
    /// Those of the nodes that may have names which are not known.
    linked: BTreeSet<u64>,
    /// Names and nodes.
    count: usize,
    /// When the latest of the requests that have been answered was sent: what the far end watches was
    /// true then, unless it has been taken back.
    heard: Duration,
    /// Counts changes.
    tick: u64,
    /// The last change of each node.
    changed: BTreeMap<u64, u64>,
    /// What was asked for before is not learned any more.
    floor: u64,
    swept: Duration,
}

impl Cache {
    /// Nothing is known, and nothing will be shown that is older than `coherence`.
    pub fn new(coherence: Duration, budget: Arc<Budget>) -> Cache {
        Cache {
            coherence,
            budget,
            names: BTreeMap::new(),
            nodes: BTreeMap::new(),
            leads: BTreeMap::new(),
            linked: BTreeSet::new(),
            count: 0,
            heard: Duration::ZERO,
            tick: 0,
            changed: BTreeMap::new(),
            floor: 0,
            swept: Duration::ZERO,
        }
    }

    /// The time of changes: what is asked for now is not learned where something changes after it.
    pub fn tick(&self) -> u64 {
        self.tick
    }

    /// A request that was sent at `sent` has been answered.
    pub fn heard(&mut self, sent: Duration) {
        self.heard = self.heard.max(sent);
    }

    /// What `name` of the folder `dir` leads to, if that is known: perhaps to nothing.
    pub fn child(&self, now: Duration, dir: u64, name: &[u8]) -> Option<Option<Qid>> {
        let child = self.names.get(&dir)?.get(name)?;
        self.is_good(now, child.age).then_some(child.qid)
    }

    /// The path of the node that a name led to when it was last heard of.
    pub fn leads_to(&self, dir: u64, name: &[u8]) -> Option<u64> {
        self.names.get(&dir)?.get(name)?.qid.map(|qid| qid.path)
    }

    /// The size of a regular file when it was last heard of.
    pub fn size(&self, path: u64) -> Option<u64> {
        self.nodes.get(&path).and_then(|known| regular_size(&known.stat.attributes))
    }

    /// A node's attributes, if they are known.
    pub fn stat(&self, now: Duration, path: u64) -> Option<&Stat> {
        self.node(now, path).map(|known| &known.stat)
    }

    /// What is known of a node, in the bits that [`hint::WATCHED`](super::hint::WATCHED) and the one beside
    /// it are.
    pub fn told(&self, now: Duration, path: u64) -> u64 {
        let Some(known) = self.node(now, path) else { return 0 };
        let watched = if self.is_watched(now, known.age) { WATCHED } else { 0 };
        let none = known.xattrs.as_ref().is_some_and(|names| names.is_empty());
        watched | if none { NO_XATTRS } else { 0 }
    }

    /// The names of a node's extended attributes, if they are known.
    pub fn xattrs(&self, now: Duration, path: u64) -> Option<Xattrs<'_>> {
        self.node(now, path)?.xattrs.as_deref().map(Xattrs::from_bytes)
    }

    fn node(&self, now: Duration, path: u64) -> Option<&Known> {
        self.nodes.get(&path).filter(|known| self.is_good(now, known.age))
    }

    fn is_good(&self, now: Duration, age: Age) -> bool {
        now.saturating_sub(age.since) <= self.coherence || self.is_watched(now, age)
    }

    fn is_watched(&self, now: Duration, age: Age) -> bool {
        let within = |since: Duration, time| now.saturating_sub(since) <= time;
        age.watched && within(self.heard, self.coherence) && within(age.since, LONGEST)
    }

    /// Learns from a hint that belongs to a request sent at `sent`, when the time of changes was
    /// `asked`.
    pub fn learn(&mut self, sent: Duration, asked: u64, hint: &Hint<'_>) {
        let names = self.may_learn(hint.dir, asked);
        for Entry { name, node } in &hint.entries {
            if names && !name.is_empty() {
                let age = Age { since: sent, watched: hint.watched };
                self.put_name(hint.dir, name, Child { age, qid: node.map(|node| node.qid) });
            }
            let Some(node) = node else { continue };
            if self.may_learn(node.qid.path, asked) {
                // A folder that has changed since may have taken this back before it came.
                let age = Age { since: sent, watched: node.watched && names };
                let stat = Stat { valid: node.valid, qid: node.qid, attributes: node.attributes };
                let xattrs = node.xattrs.map(|xattrs| Box::from(xattrs.as_bytes()));
                self.put_node(node.qid.path, Known { age, stat, xattrs });
            }
        }
    }

    /// Learns attributes from an `Rgetattr` for the node `path`, of all that there are.
    pub fn learn_stat(&mut self, sent: Duration, asked: u64, path: u64, stat: Stat) {
        if stat.qid.path == path && self.may_learn(path, asked) {
            let xattrs = self.nodes.remove(&path).and_then(|known| {
                self.forget_some(1);
                self.is_good(sent, known.age).then_some(known.xattrs).flatten()
            });
            let age = Age { since: sent, watched: false };
            self.put_node(path, Known { age, stat, xattrs });
        }
    }

    /// Learns that `name` was made in the folder `dir`, by a request that was sent at `sent`.
    pub fn learn_name(&mut self, sent: Duration, dir: u64, name: &[u8], qid: Qid) {
        let age = Age { since: sent, watched: false };
        self.put_name(dir, name, Child { age, qid: Some(qid) });
    }

    /// Whether nothing of the node has changed since the time of changes was `asked`.
    pub fn may_learn(&self, path: u64, asked: u64) -> bool {
        asked >= self.floor && self.changed.get(&path).is_none_or(|&at| at <= asked)
    }

    fn put_name(&mut self, dir: u64, name: &[u8], child: Child) {
        let (sent, to) = (child.age.since, child.qid);
        if let Some(there) = self.names.get_mut(&dir).and_then(|names| names.get_mut(name)) {
            let before = core::mem::replace(there, child);
            self.leads_no_more(before.qid);
        } else if self.room(sent) {
            self.names.entry(dir).or_default().insert(name.into(), child);
        } else {
            return;
        }
        if let Some(qid) = to {
            *self.leads.entry(qid.path).or_default() += 1;
        }
    }

    /// A name that led to a node is known no more.
    fn leads_no_more(&mut self, to: Option<Qid>) {
        let Some(Qid { path, .. }) = to else { return };
        let Some(count) = self.leads.get_mut(&path) else { return };
        *count -= 1;
        if *count == 0 {
            self.leads.remove(&path);
            if self.nodes.contains_key(&path) {
                self.linked.insert(path);
            }
        }
    }

    fn put_node(&mut self, path: u64, known: Known) {
        let several = known.stat.qid.kind != QidKind::DIR && known.stat.attributes.nlink > 1;
        let linked = several || !self.leads.contains_key(&path);
        if let Some(there) = self.nodes.get_mut(&path) {
            *there = known;
        } else if self.room(known.age.since) {
            self.nodes.insert(path, known);
        } else {
            return;
        }
        if linked {
            self.linked.insert(path);
        } else {
            self.linked.remove(&path);
        }
    }

    /// Takes room for one more.
    fn room(&mut self, now: Duration) -> bool {
        if !self.budget.take() {
            // Once in a coherence time: all there is may be good.
            if now < self.swept + self.coherence {
                return false;
            }
            self.sweep(now);
            if !self.budget.take() {
                return false;
            }
        }
        self.count += 1;
        true
    }

    /// Forgets what is too old.
    fn sweep(&mut self, now: Duration) {
        self.swept = now;
        let (mut names, mut nodes) =
            (core::mem::take(&mut self.names), core::mem::take(&mut self.nodes));
        let before = self.count;
        nodes.retain(|_, known| self.is_good(now, known.age));
        names.retain(|_, names| {
            names.retain(|_, child| self.is_good(now, child.age));
            !names.is_empty()
        });
        self.leads.clear();
        for qid in names.values().flat_map(BTreeMap::values).filter_map(|child| child.qid) {
            *self.leads.entry(qid.path).or_default() += 1;
        }
        let leads = &self.leads;
        self.linked.retain(|path| nodes.contains_key(path));
        self.linked.extend(nodes.keys().filter(|path| !leads.contains_key(path)));
        self.count = nodes.len() + names.values().map(BTreeMap::len).sum::<usize>();
        (self.names, self.nodes) = (names, nodes);
        self.budget.give(before - self.count);
    }

    /// A node changes, or is about to: what is known of it is not true any more, nor what has been asked
    /// for and has not come.
    pub fn change_node(&mut self, path: u64) {
        self.changed(path);
        if self.nodes.remove(&path).is_some() {
            self.linked.remove(&path);
            self.forget_some(1);
        }
    }

    /// A name of a folder is made, and with it the folder changes. Where there was one already, its node
    /// does.
    pub fn make_name(&mut self, dir: u64, name: &[u8]) {
        self.change_node(dir);
        if let Some(Child { qid: Some(qid), .. }) = self.take_name(dir, name) {
            self.change_node(qid.path);
        }
    }

    /// A name of a folder is taken away, or led to another node; and with it the folder changes, and the
    /// node that it led to.
    pub fn change_name(&mut self, dir: u64, name: &[u8]) {
        self.change_node(dir);
        match self.take_name(dir, name) {
            Some(Child { qid: Some(qid), .. }) => self.change_node(qid.path),
            Some(Child { qid: None, .. }) => {}
            // It may have led to any node that has another name, or one that is on its way.
            None => {
                for path in core::mem::take(&mut self.linked) {
                    self.change_node(path);
                }
                self.floor = self.tick;
            }
        }
    }

    fn take_name(&mut self, dir: u64, name: &[u8]) -> Option<Child> {
        let names = self.names.get_mut(&dir)?;
        let child = names.remove(name)?;
        if names.is_empty() {
            self.names.remove(&dir);
        }
        self.forget_some(1);
        self.leads_no_more(child.qid);
        Some(child)
    }

    /// All names of a folder change, and what they led to.
    pub fn change_folder(&mut self, dir: u64) {
        self.change_node(dir);
        for child in self.names.remove(&dir).unwrap_or_default().into_values() {
            self.forget_some(1);
            self.leads_no_more(child.qid);
            if let Some(qid) = child.qid {
                self.change_node(qid.path);
            }
        }
    }

    /// Anything may have changed.
    pub fn change_all(&mut self) {
        self.tick += 1;
        self.floor = self.tick;
        self.changed.clear();
        self.names.clear();
        self.nodes.clear();
        self.leads.clear();
        self.linked.clear();
        self.forget_some(self.count);
    }

    fn changed(&mut self, path: u64) {
        self.tick += 1;
        if self.changed.len() >= CHANGES {
            self.changed.clear();
            self.floor = self.tick;
        }
        self.changed.insert(path, self.tick);
    }

    fn forget_some(&mut self, count: usize) {
        self.count -= count;
        self.budget.give(count);
    }
}

/// A regular file's size; nothing for what is none.
pub fn regular_size(attributes: &Attributes) -> Option<u64> {
    (attributes.mode & 0o170_000 == 0o100_000).then_some(attributes.size)
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.budget.give(self.count);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::super::hint::Node;
    use super::*;
    use crate::id::Tag;

    const SECOND: Duration = Duration::from_secs(1);
    const DIR: u64 = 1;

    fn cache() -> Cache {
        Cache::new(SECOND, Arc::default())
    }

    fn qid(path: u64) -> Qid {
        Qid { kind: QidKind::FILE, version: 1, path }
    }

    fn node(path: u64, watched: bool) -> Node<'static> {
        let attributes = Attributes { mode: 0o100_644, size: path, ..Default::default() };
        let xattrs = Some(Xattrs::NONE);
        Node { valid: 0x7ff, qid: qid(path), attributes, watched, xattrs }
    }

    fn hint(entries: Vec<Entry<'_>>, watched: bool) -> Hint<'_> {
        Hint { tag: Tag(1), dir: DIR, watched, entries }
    }

    fn one(cache: &mut Cache, sent: Duration, watched: bool) {
        let asked = cache.tick();
        let entries = vec![Entry { name: b"a", node: Some(node(7, watched)) }];
        cache.learn(sent, asked, &hint(entries, watched));
    }

    #[test]
    fn what_was_said_is_known_for_the_coherence_time_from_when_it_was_asked_for() {
        let mut cache = cache();
        assert_eq!(cache.child(SECOND, DIR, b"a"), None);
        let gone = Entry { name: b"gone", node: None };
        let there = Entry { name: b"a", node: Some(node(7, false)) };
        cache.learn(SECOND, cache.tick(), &hint(vec![gone, there], false));
        for now in [SECOND, 2 * SECOND] {
            assert_eq!(cache.child(now, DIR, b"a"), Some(Some(qid(7))));
            assert_eq!(cache.child(now, DIR, b"gone"), Some(None));
            assert_eq!(cache.child(now, DIR, b"b"), None);
            assert_eq!(cache.stat(now, 7).unwrap().attributes.size, 7);
            assert_eq!(cache.xattrs(now, 7).unwrap().iter().count(), 0);
        }
        let late = 2 * SECOND + Duration::from_nanos(1);
        assert_eq!(cache.child(late, DIR, b"a"), None);
        assert_eq!(cache.stat(late, 7), None);
    }

    #[test]
    fn what_is_watched_is_known_as_long_as_the_far_end_is_heard() {
        let mut cache = cache();
        one(&mut cache, Duration::ZERO, true);
        assert!(cache.stat(2 * SECOND, 7).is_none(), "nothing has been heard");
        cache.heard(2 * SECOND);
        assert!(cache.stat(3 * SECOND, 7).is_some());
        cache.heard(SECOND);
        assert!(cache.stat(3 * SECOND, 7).is_some(), "an older answer says nothing");
        assert!(cache.stat(4 * SECOND, 7).is_none());
        cache.heard(4 * SECOND);
        assert!(cache.child(4 * SECOND, DIR, b"a").is_some());
        let late = LONGEST + SECOND;
        cache.heard(late);
        assert!(cache.stat(late, 7).is_none(), "not for ever");
    }

    #[test]
    fn a_change_is_seen_at_once_and_outlives_what_was_asked_for_before() {
        let mut cache = cache();
        one(&mut cache, SECOND, true);
        let asked = cache.tick();
        cache.change_node(7);
        assert_eq!(cache.stat(SECOND, 7), None);
        assert!(cache.child(SECOND, DIR, b"a").is_some(), "the name still leads there");
        let entries = || vec![Entry { name: b"a", node: Some(node(7, true)) }];
        cache.learn(SECOND, asked, &hint(entries(), true));
        assert_eq!(cache.stat(SECOND, 7), None, "asked for before the change");
        cache.learn(SECOND, cache.tick(), &hint(entries(), true));
        assert!(cache.stat(SECOND, 7).is_some());

        let asked = cache.tick();
        cache.change_name(DIR, b"a");
        assert_eq!((cache.child(SECOND, DIR, b"a"), cache.stat(SECOND, 7)), (None, None));
        cache.learn(SECOND, asked, &hint(entries(), true));
        assert_eq!((cache.child(SECOND, DIR, b"a"), cache.stat(SECOND, 7)), (None, None));
    }

    #[test]
    fn what_was_taken_back_before_it_was_told_is_not_believed_to_be_watched() {
        let mut cache = cache();
        let asked = cache.tick();
        one(&mut cache, SECOND, true);
        // The name leads to another node now, and what is on its way was seen before the last change of that.
        cache.change_name(DIR, b"a");
        let entries = vec![Entry { name: b"a", node: Some(node(8, true)) }];
        cache.learn(SECOND, asked, &hint(entries, true));
        assert_eq!(cache.child(SECOND, DIR, b"a"), None);
        cache.heard(3 * SECOND);
        assert_eq!(cache.stat(3 * SECOND, 8), None);
    }

    #[test]
    fn a_name_that_is_not_known_may_lead_to_any_node_that_has_another() {
        let mut cache = cache();
        let mut linked = node(7, true);
        linked.attributes.nlink = 2;
        let entries = vec![
            Entry { name: b"a", node: Some(linked) },
            Entry { name: b"b", node: Some(node(8, true)) },
        ];
        cache.learn(SECOND, cache.tick(), &hint(entries, true));
        cache.change_name(2, b"elsewhere");
        assert!(cache.stat(SECOND, 7).is_none());
        assert!(cache.stat(SECOND, 8).is_some());
    }

    #[test]
    fn a_node_without_a_known_name_goes_with_any_name_that_is_not_known() {
        let mut cache = cache();
        one(&mut cache, SECOND, true);
        cache.make_name(DIR, b"new");
        assert!(cache.stat(SECOND, 7).is_some(), "what is made takes nothing away");
        let attributes = Attributes { mode: 0o100_644, nlink: 1, ..Default::default() };
        let asked = cache.tick();
        cache.learn_stat(SECOND, asked, 8, Stat { valid: 0x7ff, qid: qid(8), attributes });
        cache.change_name(DIR, b"a");
        assert!(cache.stat(SECOND, 8).is_some() && cache.stat(SECOND, 7).is_none());
        cache.change_name(DIR, b"unknown");
        assert!(cache.stat(SECOND, 8).is_none());
        // Attributes that were on their way may be of what that name led to.
        cache.learn_stat(SECOND, asked, 8, Stat { valid: 0x7ff, qid: qid(8), attributes });
        assert!(cache.stat(SECOND, 8).is_none());
    }

    #[test]
    fn more_changes_than_are_remembered_are_not_forgotten() {
        let mut cache = cache();
        let asked = cache.tick();
        for path in 0..=CHANGES as u64 {
            cache.change_node(1000 + path);
        }
        let entries = vec![Entry { name: b"a", node: Some(node(1000, false)) }];
        cache.learn(SECOND, asked, &hint(entries, false));
        assert_eq!(cache.stat(SECOND, 1000), None);
        assert!(cache.changed.len() <= CHANGES);
    }

    #[test]
    fn a_folder_and_everything_can_be_forgotten() {
        let budget = Arc::new(Budget::default());
        let mut cache = Cache::new(SECOND, Arc::clone(&budget));
        one(&mut cache, SECOND, true);
        cache.change_folder(DIR);
        assert_eq!((cache.child(SECOND, DIR, b"a"), cache.stat(SECOND, 7)), (None, None));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
        let asked = cache.tick();
        one(&mut cache, SECOND, true);
        cache.change_all();
        let entries = vec![Entry { name: b"a", node: Some(node(7, true)) }];
        cache.learn(SECOND, asked, &hint(entries, true));
        assert_eq!((cache.child(SECOND, DIR, b"a"), cache.stat(SECOND, 7)), (None, None));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn memory_is_bounded_and_what_is_too_old_makes_room() {
        let budget = Arc::new(Budget::default());
        let mut cache = Cache::new(SECOND, Arc::clone(&budget));
        let name = |n: u64| n.to_le_bytes().map(|byte| byte | 0x40);
        let fill = |cache: &mut Cache, from: u64, sent| {
            for n in from..from + MOST as u64 {
                let name = name(n);
                let entries = vec![Entry { name: &name, node: Some(node(n, false)) }];
                cache.learn(sent, cache.tick(), &hint(entries, false));
            }
        };
        fill(&mut cache, 0, SECOND);
        assert_eq!((budget.used.load(Ordering::Relaxed), cache.count), (MOST, MOST));
        let late = 3 * SECOND;
        one(&mut cache, late, false);
        assert!(cache.stat(late, 7).is_some());
        assert_eq!(cache.count, 2);
        fill(&mut cache, 1 << 20, late);
        assert_eq!(cache.count, MOST);
        drop(cache);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn attributes_of_a_reply_keep_what_is_known_of_extended_ones() {
        let mut cache = cache();
        one(&mut cache, SECOND, false);
        let attributes = Attributes { mode: 0o100_644, size: 99, ..Default::default() };
        let stat = Stat { valid: 0x7ff, qid: qid(7), attributes };
        cache.learn_stat(SECOND, cache.tick(), 7, stat);
        assert_eq!(cache.stat(SECOND, 7).unwrap().attributes.size, 99);
        assert!(cache.xattrs(SECOND, 7).is_some());
        cache.learn_stat(SECOND, cache.tick(), 8, stat);
        assert_eq!(cache.stat(SECOND, 8), None, "another node's");
        assert_eq!(cache.count, 2);
    }
}
