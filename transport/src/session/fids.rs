//! The kernel's fids and the channel's.
//!
//! A fid is made by a request and exists once that has succeeded; it ends with the request that
//! clunks it, whatever the answer (clunk(5)). Numbers towards the channel are used again only after
//! the far end has answered that clunk.
//!
//! ```text
//!   bind ──────────────────────────────────► Far ──► gone
//!   bind_here ──► Here ── fetch ──► Coming ───┘ ▲      ▲
//!                  │                  └─ lose ──► Lost ┘
//!                  └───────────────────────────────────┘
//! ```
//!
//! A fid that was made here is a fid of the far end's, its *base*, and the names to walk from it. The base
//! stays at the far end as long as it is one, also when the kernel has clunked it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::id::Fid;
use crate::ninep::Tmessage;
use crate::ninep::message::MAX_NAMES;
use crate::ninep::packet::HEADER;

/// Where the first fid of a message stands.
const FIRST: usize = HEADER;
/// Where the second one stands, right behind the first.
const SECOND: usize = HEADER + 4;

/// Which fids a request names, as the channel knows them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translated {
    fields: [(usize, Fid); 2],
    count: usize,
    /// The fid that it makes: the kernel's number and the channel's.
    pub(super) made: Option<(Fid, Fid)>,
    /// The fid that it ends.
    pub(super) ended: Option<Fid>,
    /// Ending it sets an extended attribute, which may fail.
    pub(super) sets_attribute: bool,
}

impl Translated {
    /// Offsets in the head, and what is to stand there.
    pub(super) fn fields(&self) -> &[(usize, Fid)] {
        &self.fields[..self.count]
    }

    fn put(&mut self, at: usize, fid: Fid) {
        self.fields[self.count] = (at, fid);
        self.count += 1;
    }
}

/// Where a fid of the kernel's is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// At the far end, by this number.
    Far(Fid),
    /// Only here.
    Here(Walk),
    /// Only here, and the far end has been asked to make it, by this number.
    Coming(Walk, Fid),
    /// Nowhere: the far end could not make it any more, for this errno.
    Lost(u32),
    /// Only here: it reads an extended attribute, or their list.
    Value(Bytes),
}

/// How the far end would come to a fid.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    /// The far end's fid to walk from.
    pub(super) base: Fid,
    /// The names to walk.
    pub(super) steps: Vec<Step>,
}

/// A name, and the path of the folder that it is in.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) dir: u64,
    pub(super) name: Arc<[u8]>,
}

#[derive(Debug)]
struct Near {
    place: Place,
    /// The path of its node's qid, if that is known.
    path: Option<u64>,
    /// It is open at the far end, and not to be kept so.
    open: bool,
    /// It is open with `O_DIRECT`: what it reads is not to come from any memory.
    direct: bool,
}

impl Near {
    fn new(place: Place, path: Option<u64>) -> Near {
        Near { place, path, open: false, direct: false }
    }
}

/// Both sides' fids of one conversation.
#[derive(Debug, Default)]
pub(super) struct Fids {
    near: BTreeMap<Fid, Near>,
    /// The kernel's fids that are to be walked to from each of the far end's.
    walks: BTreeMap<Fid, BTreeSet<Fid>>,
    /// The far end's fids that the kernel has clunked and others are walked to from.
    kept: BTreeSet<Fid>,
    /// The kernel's fids on whose way a name stands, by its folder's path and the name.
    by_name: BTreeMap<u64, BTreeMap<Arc<[u8]>, BTreeSet<Fid>>>,
    /// The kernel's fids that an unanswered request makes.
    binding: BTreeSet<Fid>,
    /// The kernel's fids that a `Txattrcreate` named.
    attributes: BTreeSet<Fid>,
    free: Vec<Fid>,
    next: u32,
}

impl Fids {
    /// A request's fids; `None` where it names one that is not there, or makes one that is.
    /// What it ends is gone from here on; what it makes is there after [`bind`](Self::bind).
    pub(super) fn translate(&mut self, message: &Tmessage<'_>) -> Option<Translated> {
        let mut to = Translated {
            fields: [(0, Fid::NONE); 2],
            count: 0,
            made: None,
            ended: None,
            sets_attribute: false,
        };
        match *message {
            Tmessage::Tauth { afid, .. } => self.make(afid, FIRST, &mut to)?,
            Tmessage::Tattach { fid, afid, .. } => {
                if afid != Fid::NONE {
                    to.put(SECOND, self.known(afid)?);
                }
                self.make(fid, FIRST, &mut to)?;
            }
            Tmessage::Twalk { fid, newfid, .. } if fid == newfid => {
                let far = self.known(fid)?;
                to.put(FIRST, far);
                to.put(SECOND, far);
            }
            Tmessage::Twalk { fid, newfid, .. } | Tmessage::Txattrwalk { fid, newfid, .. } => {
                to.put(FIRST, self.known(fid)?);
                self.make(newfid, SECOND, &mut to)?;
            }
            Tmessage::Trenameat { olddirfid, oldname, newdirfid, .. } => {
                to.put(FIRST, self.known(olddirfid)?);
                to.put(SECOND + 2 + oldname.len(), self.known(newdirfid)?);
            }
            Tmessage::Tclunk { fid } | Tmessage::Tremove { fid } => {
                let far = self.known(fid)?;
                self.near.remove(&fid);
                to.put(FIRST, far);
                to.ended = Some(far);
                to.sets_attribute = self.attributes.remove(&fid);
            }
            Tmessage::Txattrcreate { fid, .. } => {
                to.put(FIRST, self.known(fid)?);
                self.attributes.insert(fid);
            }
            _ => {
                for (at, fid) in [FIRST, SECOND].into_iter().zip(message.fids()) {
                    if let Some(fid) = fid {
                        to.put(at, self.known(fid)?);
                    }
                }
            }
        }
        Some(to)
    }

    /// The request that makes `near` has succeeded; its node's qid has this path, if it is known.
    pub(super) fn bind(&mut self, near: Fid, far: Fid, path: Option<u64>) {
        self.binding.remove(&near);
        self.near.insert(near, Near::new(Place::Far(far), path));
    }

    /// Whether ending `near` sets an extended attribute.
    pub(super) fn sets_attribute(&self, near: Fid) -> bool {
        self.attributes.contains(&near)
    }

    /// Where `near` is.
    pub(super) fn place(&self, near: Fid) -> Option<&Place> {
        self.near.get(&near).map(|known| &known.place)
    }

    /// The path of the node of `near`.
    pub(super) fn path(&self, near: Fid) -> Option<u64> {
        self.near.get(&near)?.path
    }

    /// `near` is of another node from now on.
    pub(super) fn set_path(&mut self, near: Fid, path: Option<u64>) {
        if let Some(known) = self.near.get_mut(&near) {
            known.path = path;
        }
    }

    /// `near` is about to be opened.
    pub(super) fn set_open(&mut self, near: Fid, direct: bool) {
        if let Some(known) = self.near.get_mut(&near) {
            (known.open, known.direct) = (true, direct);
        }
    }

    /// Whether what `near` reads may come from memory.
    pub(super) fn may_be_read_ahead(&self, near: Fid) -> bool {
        let near = self.near.get(&near);
        near.is_some_and(|near| near.open && !near.direct && matches!(near.place, Place::Far(_)))
    }

    /// Whether there can be a fid of that number.
    pub(super) fn is_free(&self, near: Fid) -> bool {
        near != Fid::NONE && !self.near.contains_key(&near) && !self.binding.contains(&near)
    }

    /// How the far end would come to what is `steps` from `near`; nothing where it could not in one walk.
    pub(super) fn walk(&self, near: Fid, steps: impl IntoIterator<Item = Step>) -> Option<Walk> {
        let near = self.near.get(&near)?;
        let mut walk = match &near.place {
            Place::Far(_) if near.open => return None,
            Place::Far(far) => Walk { base: *far, steps: Vec::new() },
            Place::Here(walk) => walk.clone(),
            Place::Coming(..) | Place::Lost(_) | Place::Value(_) => return None,
        };
        walk.steps.extend(steps);
        (walk.steps.len() <= MAX_NAMES).then_some(walk)
    }

    /// Makes `near`, which is free, here only.
    pub(super) fn bind_here(&mut self, near: Fid, walk: Walk, path: u64) {
        self.walks.entry(walk.base).or_default().insert(near);
        for step in &walk.steps {
            let names = self.by_name.entry(step.dir).or_default();
            names.entry(Arc::clone(&step.name)).or_default().insert(near);
        }
        self.near.insert(near, Near::new(Place::Here(walk), Some(path)));
    }

    /// Makes `near`, which is free, read `value`.
    pub(super) fn bind_value(&mut self, near: Fid, value: Bytes) {
        self.near.insert(near, Near::new(Place::Value(value), None));
    }

    /// The far end is asked to make `near`, which is only here: by which number, and how.
    pub(super) fn fetch(&mut self, near: Fid) -> Option<(Fid, Walk)> {
        let Place::Here(walk) = self.place(near)? else { return None };
        let (walk, far) = (walk.clone(), self.number());
        self.near.get_mut(&near)?.place = Place::Coming(walk.clone(), far);
        Some((far, walk))
    }

    /// The far end has made `near` by the number `far`, or could not. Gives its way, and the base if the far
    /// end is to forget that; nothing where it has been ended meanwhile.
    pub(super) fn fetched(
        &mut self,
        near: Fid,
        far: Fid,
        made: Result<(), u32>,
    ) -> Option<(Walk, Option<Fid>)> {
        let place = &mut self.near.get_mut(&near)?.place;
        let Place::Coming(walk, number) = place else { return None };
        if *number != far {
            return None;
        }
        let walk = walk.clone();
        *place = match made {
            Ok(()) => Place::Far(far),
            Err(errno) => Place::Lost(errno),
        };
        let unused = self.unlink(near, &walk);
        Some((walk, unused))
    }

    /// Ends `near` where the far end does not know of it. Gives the base, if the far end is to forget that.
    pub(super) fn end_here(&mut self, near: Fid) -> Option<Option<Fid>> {
        match &self.near.get(&near)?.place {
            Place::Far(far) => {
                if !self.walks.contains_key(far) || self.attributes.contains(&near) {
                    return None;
                }
                self.kept.insert(*far);
                self.near.remove(&near);
                Some(None)
            }
            // Nobody who has been killed waits for it: what comes is forgotten then.
            Place::Here(walk) | Place::Coming(walk, _) => {
                let walk = walk.clone();
                self.near.remove(&near);
                Some(self.unlink(near, &walk))
            }
            Place::Lost(_) | Place::Value(_) => {
                self.near.remove(&near);
                Some(None)
            }
        }
    }

    fn unlink(&mut self, near: Fid, walk: &Walk) -> Option<Fid> {
        for step in &walk.steps {
            let Some(names) = self.by_name.get_mut(&step.dir) else { continue };
            let Some(fids) = names.get_mut(&step.name) else { continue };
            fids.remove(&near);
            if fids.is_empty() {
                names.remove(&step.name);
            }
            if names.is_empty() {
                self.by_name.remove(&step.dir);
            }
        }
        let fids = self.walks.get_mut(&walk.base)?;
        fids.remove(&near);
        if !fids.is_empty() {
            return None;
        }
        self.walks.remove(&walk.base);
        self.kept.remove(&walk.base).then_some(walk.base)
    }

    /// The fids that are only here and whose way leads by `name` of the folder `dir`; with no folder known,
    /// all that have a way.
    pub(super) fn on_the_way(&self, dir: Option<u64>, name: &[u8]) -> Vec<Fid> {
        match dir {
            Some(dir) => {
                let fids = self.by_name.get(&dir).and_then(|names| names.get(name));
                fids.into_iter().flatten().copied().collect()
            }
            None => self.walks.values().flatten().copied().collect(),
        }
    }

    /// The fids that are only here and walked to from `near`.
    pub(super) fn walked_from(&self, near: Fid) -> Vec<Fid> {
        let Some(Place::Far(far)) = self.place(near) else { return Vec::new() };
        self.walks.get(far).into_iter().flatten().copied().collect()
    }

    /// The request that was to make `near` has not, or nobody wants to know.
    pub(super) fn unmake(&mut self, near: Fid) {
        self.binding.remove(&near);
    }

    /// The far end knows nothing by this number any more.
    pub(super) fn release(&mut self, far: Fid) {
        self.free.push(far);
    }

    /// A new session: nothing is known at either end.
    pub(super) fn clear(&mut self) {
        *self = Fids::default();
    }

    fn known(&self, near: Fid) -> Option<Fid> {
        match self.place(near)? {
            Place::Far(far) => Some(*far),
            _ => None,
        }
    }

    /// A number that the far end does not know.
    fn number(&mut self) -> Fid {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            Fid(self.next - 1)
        })
    }

    fn make(&mut self, near: Fid, at: usize, to: &mut Translated) -> Option<()> {
        if self.near.contains_key(&near) || !self.binding.insert(near) {
            return None;
        }
        let far = self.number();
        to.put(at, far);
        to.made = Some((near, far));
        Some(())
    }
}
