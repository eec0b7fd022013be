//! By which names the kernel knows nodes, and which of them it has been told of since they were last taken
//! back.
//!
//! A server may take back a whole folder with a message of a few bytes, as often as it likes. Only what the
//! kernel has been told of since is gone through again, so that this costs no more than the telling did.

use std::collections::{BTreeMap, BTreeSet};

/// A folder's number, and a name in it.
pub type Place = (u64, Box<[u8]>);

/// The names.
#[derive(Debug, Default)]
pub struct Places {
    /// Where each node was told of last.
    nodes: BTreeMap<Place, u64>,
    /// Those told of since.
    told: BTreeSet<Place>,
}

impl Places {
    /// The kernel is told of `node` by the name `place`.
    pub fn tell(&mut self, place: &Place, node: u64) {
        if self.told.insert(place.clone()) || self.nodes.get(place) != Some(&node) {
            self.nodes.insert(place.clone(), node);
        }
    }

    /// `node` is not known by the name `place` any more.
    pub fn leave(&mut self, place: &Place, node: u64) {
        if self.nodes.get(place) == Some(&node) {
            self.nodes.remove(place);
            self.told.remove(place);
        }
    }

    /// The node known by a name.
    pub fn at(&self, place: &Place) -> Option<u64> {
        self.nodes.get(place).copied()
    }

    /// A name of a folder is taken back, all of them where it is empty: those that the kernel has been told
    /// of since they were last taken back, and their nodes.
    pub fn take_back(&mut self, dir: u64, name: &[u8]) -> Vec<(Place, u64)> {
        let from = (dir, Box::from(name));
        if !name.is_empty() {
            return self.taken(self.told.contains(&from).then_some(from));
        }
        let of = self.told.range(from..).take_while(|place| place.0 == dir);
        self.taken(of.cloned().collect::<Vec<_>>())
    }

    /// Everything is taken back.
    pub fn take_all_back(&mut self) -> Vec<(Place, u64)> {
        self.taken(self.told.clone())
    }

    fn taken(&mut self, places: impl IntoIterator<Item = Place>) -> Vec<(Place, u64)> {
        let taken = places.into_iter().filter_map(|place| {
            self.told.remove(&place);
            self.at(&place).map(|node| (place, node))
        });
        taken.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dir: u64, name: &str) -> Place {
        (dir, Box::from(name.as_bytes()))
    }

    fn nodes(taken: &[(Place, u64)]) -> Vec<u64> {
        taken.iter().map(|(_, node)| *node).collect()
    }

    fn some() -> Places {
        let mut places = Places::default();
        for (dir, name, node) in [(1, "a", 2), (1, "b", 3), (2, "a", 4), (3, "", 5)] {
            places.tell(&place(dir, name), node);
        }
        places
    }

    #[test]
    fn what_was_taken_back_is_not_gone_through_again_before_it_is_told_again() {
        let mut places = some();
        assert_eq!(nodes(&places.take_back(1, b"b")), [3]);
        assert_eq!(nodes(&places.take_back(1, b"b")), [0; 0]);
        assert_eq!(nodes(&places.take_back(1, b"")), [2]);
        assert_eq!(nodes(&places.take_back(1, b"")), [0; 0]);
        places.tell(&place(1, "b"), 3);
        assert_eq!(nodes(&places.take_back(1, b"")), [3]);
        assert_eq!(nodes(&places.take_all_back()), [4, 5]);
        assert_eq!(nodes(&places.take_all_back()), [0; 0]);
        assert_eq!(places.at(&place(2, "a")), Some(4), "it is known all the same");
    }

    #[test]
    fn a_name_that_another_node_has_taken_is_not_left_with_the_first() {
        let mut places = some();
        places.tell(&place(1, "a"), 9);
        places.leave(&place(1, "a"), 2);
        assert_eq!(nodes(&places.take_back(1, b"a")), [9]);
        places.leave(&place(1, "a"), 9);
        places.leave(&place(2, "a"), 4);
        assert_eq!(places.at(&place(1, "a")), None);
        assert_eq!(nodes(&places.take_back(2, b"")), [0; 0]);
        assert_eq!(nodes(&places.take_back(7, b"")), [0; 0]);
    }
}
