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
    /// Names, the folders that they are in, and a node.
    Names(Box<([Option<Name>; 2], Option<u64>)>),
    /// Anything.
    All,
}

impl Change {
    /// What `message` may change.
    pub(super) fn of(message: &Tmessage<'_>, fids: &Fids) -> Change {
        let node = |fid: Fid| fids.path(fid).map_or(Change::All, Change::Node);
        let name = |dir: Fid, name: &[u8]| Some((fids.path(dir)?, Box::from(name)));
        let names = |names: [Option<Option<Name>>; 2], node: Option<u64>| {
            // A folder that is not known may be any.
            if names.iter().any(|name| matches!(name, Some(None))) {
                return Change::All;
            }
            Change::Names(Box::new((names.map(Option::flatten), node)))
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
            | Tmessage::Tmkdir { dfid: dir, name: of, .. }
            | Tmessage::Tunlinkat { dirfid: dir, name: of, .. } => {
                names([Some(name(dir, of)), None], None)
            }
            Tmessage::Tlink { dfid, fid, name: of } => match fids.path(fid) {
                Some(node) => names([Some(name(dfid, of)), None], Some(node)),
                None => Change::All,
            },
            Tmessage::Trenameat { olddirfid, oldname, newdirfid, newname } => {
                names([Some(name(olddirfid, oldname)), Some(name(newdirfid, newname))], None)
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
            Change::Names(names) => {
                for (dir, name) in names.0.iter().flatten() {
                    accel.change_name(*dir, name);
                }
                names.1.into_iter().for_each(|path| accel.change_node(path));
            }
            Change::All => accel.change_all(),
        }
    }
}
