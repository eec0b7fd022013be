//! What a request may change: taken out of what is known before it is sent, and again when it is answered.

use alloc::boxed::Box;

use super::fids::Fids;
use crate::accel::Accel;
use crate::id::Fid;
use crate::ninep::Tmessage;
use crate::ninep::message::{lock, open};

/// A name, and the path of its folder.
type Name = (u64, Box<[u8]>);

/// What a request may change.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Nothing that is remembered.
    Nothing,
    /// A node.
    Node(u64),
    /// A name is made in a folder; perhaps it is another one of a node.
    Make(Box<Name>, Option<u64>),
    /// Names are taken away, or led to other nodes.
    Names(Box<[Option<Name>; 2]>),
    /// Anything.
    All,
}

impl Change {
    /// What `message` may change.
    pub(super) fn of(message: &Tmessage<'_>, fids: &Fids) -> Change {
        let node = |fid: Fid| fids.path(fid).map_or(Change::All, Change::Node);
        let name = |dir: Fid, name: &[u8]| Some((fids.path(dir)?, Box::<[u8]>::from(name)));
        // A folder that is not known may be any.
        let make = |name: Option<Name>, node| match name {
            Some(name) => Change::Make(Box::new(name), node),
            None => Change::All,
        };
        match *message {
            Tmessage::Tlopen { fid, flags } if flags & open::TRUNC != 0 => node(fid),
            Tmessage::Tlock { fid, kind, .. } if kind != lock::UNLCK => node(fid),
            Tmessage::Tsetattr { fid, .. } | Tmessage::Twrite { fid, .. } => node(fid),
            Tmessage::Txattrcreate { fid, .. } => node(fid),
            Tmessage::Tclunk { fid } if fids.sets_attribute(fid) => node(fid),
            Tmessage::Tlcreate { fid: dir, name: of, .. }
            | Tmessage::Tsymlink { dfid: dir, name: of, .. }
            | Tmessage::Tmknod { dfid: dir, name: of, .. }
            | Tmessage::Tmkdir { dfid: dir, name: of, .. } => make(name(dir, of), None),
            Tmessage::Tlink { dfid, fid, name: of } => match fids.path(fid) {
                Some(node) => make(name(dfid, of), Some(node)),
                None => Change::All,
            },
            Tmessage::Tunlinkat { dirfid, name: of, .. } => match name(dirfid, of) {
                Some(name) => Change::Names(Box::new([Some(name), None])),
                None => Change::All,
            },
            Tmessage::Trenameat { olddirfid, oldname, newdirfid, newname } => {
                match (name(olddirfid, oldname), name(newdirfid, newname)) {
                    (Some(old), Some(new)) => Change::Names(Box::new([Some(old), Some(new)])),
                    _ => Change::All,
                }
            }
            // The name that it had is not said.
            Tmessage::Trename { .. } | Tmessage::Tremove { .. } => Change::All,
            _ => Change::Nothing,
        }
    }

    /// Takes it out of what is known.
    pub(super) fn apply(&self, accel: &mut Accel) {
        match self {
            Change::Nothing => {}
            Change::Node(path) => accel.change_node(*path),
            Change::Make(name, node) => {
                accel.cache.make_name(name.0, &name.1);
                if let Some(path) = node {
                    accel.change_node(*path);
                }
            }
            Change::Names(names) => {
                for (dir, name) in names.iter().flatten() {
                    accel.change_name(*dir, name);
                }
            }
            Change::All => accel.change_all(),
        }
    }
}
