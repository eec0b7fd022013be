//! The kernel's fids and the channel's.
//!
//! A fid is made by a request and exists once that has succeeded; it ends with the request that
//! clunks it, whatever the answer (clunk(5)). Numbers towards the channel are used again only after
//! the far end has answered that clunk.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::id::Fid;
use crate::ninep::Tmessage;
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

/// Both sides' fids of one conversation.
#[derive(Debug, Default)]
pub(super) struct Fids {
    far: BTreeMap<Fid, Fid>,
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
            Tmessage::Tversion { .. } | Tmessage::Tflush { .. } | Tmessage::Never(..) => {}
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
            Tmessage::Trename { fid, dfid, .. } | Tmessage::Tlink { dfid: fid, fid: dfid, .. } => {
                to.put(FIRST, self.known(fid)?);
                to.put(SECOND, self.known(dfid)?);
            }
            Tmessage::Trenameat { olddirfid, oldname, newdirfid, .. } => {
                to.put(FIRST, self.known(olddirfid)?);
                to.put(SECOND + 2 + oldname.len(), self.known(newdirfid)?);
            }
            Tmessage::Tclunk { fid } | Tmessage::Tremove { fid } => {
                let far = self.far.remove(&fid)?;
                to.put(FIRST, far);
                to.ended = Some(far);
                to.sets_attribute = self.attributes.remove(&fid);
            }
            Tmessage::Txattrcreate { fid, .. } => {
                to.put(FIRST, self.known(fid)?);
                self.attributes.insert(fid);
            }
            Tmessage::Tstatfs { fid }
            | Tmessage::Tlopen { fid, .. }
            | Tmessage::Tlcreate { fid, .. }
            | Tmessage::Tsymlink { dfid: fid, .. }
            | Tmessage::Tmknod { dfid: fid, .. }
            | Tmessage::Treadlink { fid }
            | Tmessage::Tgetattr { fid, .. }
            | Tmessage::Tsetattr { fid, .. }
            | Tmessage::Treaddir { fid, .. }
            | Tmessage::Tfsync { fid, .. }
            | Tmessage::Tlock { fid, .. }
            | Tmessage::Tgetlock { fid, .. }
            | Tmessage::Tmkdir { dfid: fid, .. }
            | Tmessage::Tunlinkat { dirfid: fid, .. }
            | Tmessage::Tread { fid, .. }
            | Tmessage::Twrite { fid, .. } => to.put(FIRST, self.known(fid)?),
        }
        Some(to)
    }

    /// The request that makes `near` has succeeded.
    pub(super) fn bind(&mut self, near: Fid, far: Fid) {
        self.binding.remove(&near);
        self.far.insert(near, far);
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
        self.far.get(&near).copied()
    }

    fn make(&mut self, near: Fid, at: usize, to: &mut Translated) -> Option<()> {
        if self.far.contains_key(&near) || !self.binding.insert(near) {
            return None;
        }
        let far = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            Fid(self.next - 1)
        });
        to.put(at, far);
        to.made = Some((near, far));
        Some(())
    }
}
