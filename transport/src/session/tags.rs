//! The kernel's tags and the channel's.
//!
//! ```text
//!            take            release (reply came)
//!   free ──────────► waiting ───────────────────► free
//!                     │   ▲                         ▲
//!             abandon │   └─ hold/unhold: a Tflush names it; the number stays taken
//!                     ▼      until that flush is answered too
//!                 abandoned ────────────────────────┘
//!                            release (its late reply is dropped)
//! ```

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use core::time::Duration;

use bytes::Bytes;

use super::change::Change;
use crate::id::{Fid, Tag};
use crate::ninep::Kind;

/// What is to be undone if a request succeeds after nobody waits for it, or booked when it does.
#[derive(Clone, Debug)]
pub(super) enum Undo {
    /// Nothing.
    Nothing,
    /// It makes a fid, if all its `names` are walked; without names that of the node with the path `from`.
    Make { near: Fid, far: Fid, names: usize, from: Option<u64> },
    /// It makes a fid that the kernel has had for a while.
    Fetch { near: Fid, far: Fid, names: usize },
    /// It reads a block ahead, for a fid of the kernel's.
    Ahead { near: Fid, id: u64 },
    /// It asks for the size of a fid's file.
    Size(Fid),
    /// It ends a fid.
    End(Fid),
    /// It takes a lock: the request, with the channel's fid.
    Lock(Bytes),
    /// It flushes another.
    Flush(Tag),
}

/// A request at the far end.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// The kernel's tag, while it waits.
    pub(super) near: Option<Tag>,
    /// The request's type.
    pub(super) kind: Kind,
    /// What it leaves behind.
    pub(super) undo: Undo,
    /// What it may change.
    pub(super) change: Change,
    /// The path of the node whose attributes it asks for, all of them.
    pub(super) node: Option<u64>,
    /// The fid that becomes a new file's.
    pub(super) creates: Option<Fid>,
    /// When it was sent.
    pub(super) sent: Duration,
    /// The time of changes then.
    pub(super) asked: u64,
}

impl Pending {
    /// One that changes, asks and creates nothing; `sent` when the time of changes was `asked`.
    pub(super) fn new(
        near: Option<Tag>,
        kind: Kind,
        undo: Undo,
        sent: Duration,
        asked: u64,
    ) -> Pending {
        Pending {
            near,
            kind,
            undo,
            change: Change::Nothing,
            node: None,
            creates: None,
            sent,
            asked,
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    pending: Option<Pending>,
    /// Unanswered flushes that name this tag.
    held: u32,
}

/// Both sides' tags of one conversation.
#[derive(Debug, Default)]
pub(super) struct Tags {
    slots: Vec<Slot>,
    free: Vec<u16>,
    near: BTreeMap<Tag, Tag>,
}

impl Tags {
    /// A channel tag for a request; `None` where all 65,535 are taken.
    pub(super) fn take(&mut self, pending: Pending) -> Option<Tag> {
        let far = match self.free.pop() {
            Some(far) => far,
            None => {
                let far = u16::try_from(self.slots.len()).ok()?;
                if Tag(far) == Tag::NONE {
                    return None;
                }
                self.slots.push(Slot::default());
                far
            }
        };
        if let Some(near) = pending.near {
            self.near.insert(near, Tag(far));
        }
        self.slots[usize::from(far)].pending = Some(pending);
        Some(Tag(far))
    }

    /// The far end has answered `far`; `None` where it had nothing to answer.
    pub(super) fn release(&mut self, far: Tag) -> Option<Pending> {
        let pending = self.slots.get_mut(usize::from(far.0))?.pending.take()?;
        if let Some(near) = pending.near {
            self.near.remove(&near);
        }
        self.settle(far);
        Some(pending)
    }

    /// The request at the far end that has this tag.
    pub(super) fn get(&self, far: Tag) -> Option<&Pending> {
        self.slots.get(usize::from(far.0))?.pending.as_ref()
    }

    /// The request that the kernel knows as `near`.
    pub(super) fn find(&self, near: Tag) -> Option<(Tag, Kind)> {
        let far = *self.near.get(&near)?;
        let pending = self.slots.get(usize::from(far.0))?.pending.as_ref()?;
        Some((far, pending.kind))
    }

    /// Whether the kernel waits for a reply to `near`.
    pub(super) fn is_waiting(&self, near: Tag) -> bool {
        self.near.contains_key(&near)
    }

    /// The kernel waits for `far` no more.
    pub(super) fn abandon(&mut self, far: Tag) {
        let slot = self.slots.get_mut(usize::from(far.0));
        if let Some(near) = slot.and_then(|slot| slot.pending.as_mut()?.near.take()) {
            self.near.remove(&near);
        }
    }

    /// The kernel waits for nothing any more.
    pub(super) fn abandon_all(&mut self) {
        self.near.clear();
        for pending in self.slots.iter_mut().filter_map(|slot| slot.pending.as_mut()) {
            pending.near = None;
        }
    }

    /// A flush names `far`: the number is not used again before [`unhold`](Self::unhold).
    pub(super) fn hold(&mut self, far: Tag) {
        if let Some(slot) = self.slots.get_mut(usize::from(far.0)) {
            slot.held += 1;
        }
    }

    /// The flush that named `far` has been answered; gives the request, if that never was.
    pub(super) fn unhold(&mut self, far: Tag) -> Option<Pending> {
        let slot = self.slots.get_mut(usize::from(far.0))?;
        slot.held = slot.held.saturating_sub(1);
        if slot.pending.is_some() {
            return self.release(far);
        }
        self.settle(far);
        None
    }

    /// The requests that the kernel waits for.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (Tag, Kind)> + '_ {
        self.near.iter().filter_map(|(near, far)| {
            Some((*near, self.slots.get(usize::from(far.0))?.pending.as_ref()?.kind))
        })
    }

    /// Tags that are taken though the kernel does not wait for them.
    pub(super) fn unwaited(&self) -> usize {
        self.slots.len() - self.free.len() - self.near.len()
    }

    /// The far end has nothing to answer any more.
    pub(super) fn clear(&mut self) {
        *self = Tags::default();
    }

    /// Requests that the kernel waits for.
    pub(super) fn in_flight(&self) -> usize {
        self.near.len()
    }

    fn settle(&mut self, far: Tag) {
        let slot = &self.slots[usize::from(far.0)];
        if slot.pending.is_none() && slot.held == 0 {
            self.free.push(far.0);
        }
    }
}
