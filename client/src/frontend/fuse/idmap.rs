//! Whose files they appear to be: `--idmap user|none`.
//!
//! `user`: the service's user there and the mounting user here are shown as each other, as sshfs does
//! it, and so both ways for chown(2): nothing is lost. 9P does not say who the service's user is; the
//! owner of the shared folder is taken for it. Where that is the overflow user, as for a folder of
//! root's behind a user namespace, nobody is mapped. `none`: the server's numbers.

use serde::{Deserialize, Serialize};

/// Who stands for a user or group that cannot be named (kernel `overflowuid`).
const OVERFLOW: u32 = 65_534;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Wish {
    /// The service's user is shown as this user and group.
    User(u32, u32),
    /// The server's numbers.
    None,
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdMap {
    users: (u32, u32),
    groups: (u32, u32),
    asks_for_groups: bool,
}

impl IdMap {
    /// The map for a folder that belongs to `uid` and `gid` there.
    pub fn new(wish: Wish, uid: u32, gid: u32) -> IdMap {
        let pair = |theirs, ours| if theirs == OVERFLOW { (ours, ours) } else { (theirs, ours) };
        match wish {
            Wish::User(user, group) => {
                IdMap { users: pair(uid, user), groups: pair(gid, group), asks_for_groups: false }
            }
            Wish::None => IdMap { users: (0, 0), groups: (0, 0), asks_for_groups: true },
        }
    }

    /// The owner as shown here.
    pub fn shown(&self, uid: u32, gid: u32) -> (u32, u32) {
        (swap(self.users, uid), swap(self.groups, gid))
    }

    /// The owner there who is meant by one here.
    pub fn meant(&self, uid: u32, gid: u32) -> (u32, u32) {
        // A swap is its own inverse.
        self.shown(uid, gid)
    }

    /// The group that something new is to have: the process's, where numbers mean the same at both
    /// ends; else as it comes there.
    pub fn new_group(&self, gid: u32) -> u32 {
        if self.asks_for_groups { gid } else { u32::MAX }
    }
}

fn swap((a, b): (u32, u32), id: u32) -> u32 {
    match id {
        _ if id == a => b,
        _ if id == b => a,
        _ => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_user_is_shown_as_the_mounting_one_and_back() {
        let map = IdMap::new(Wish::User(1000, 1001), 500, 501);
        assert_eq!(map.shown(500, 501), (1000, 1001));
        assert_eq!(map.meant(1000, 1001), (500, 501));
        assert_eq!(map.shown(0, 7), (0, 7));
        for id in [0, 500, 501, 1000, 1001, u32::MAX] {
            let (uid, gid) = map.shown(id, id);
            assert_eq!(map.meant(uid, gid), (id, id));
        }
        assert_eq!(map.new_group(1001), u32::MAX);
    }

    #[test]
    fn nobody_is_not_the_services_user() {
        let map = IdMap::new(Wish::User(1000, 1000), OVERFLOW, OVERFLOW);
        assert_eq!(map.shown(1000, OVERFLOW), (1000, OVERFLOW));
    }

    #[test]
    fn none_changes_nothing() {
        let map = IdMap::new(Wish::None, 500, 501);
        assert_eq!(map.shown(500, 0), (500, 0));
        assert_eq!(map.new_group(7), 7);
    }
}
