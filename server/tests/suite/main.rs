//! The suite that every file server passes: what each operation does on a real folder, looked at from both
//! sides. It runs on a session of the embedded server in this process, on one in a worker at a socket, and
//! on Debian's diod.
//!
//! What diod does not do stands in [`LACKS`], and nowhere else. Such a case is run on diod as well, and has
//! to fail there: an entry that has become untrue fails the suite.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

mod attributes;
mod files;
mod folders;
#[path = "../fs_client/mod.rs"]
mod fs_client;
mod locks;
mod session;

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fs_client::Client;
use policy::FolderPath;
use server::backend::{Dialect, diod, worker};

/// Case, and what diod does instead.
const LACKS: &[(&str, &str)] = &[
    // Locks.
    ("a_lock_is_of_its_range_alone", "locks the whole file, whatever range is asked for"),
    ("owners_of_one_fid_exclude_each_other", "has one lock for a fid, whoever owns it"),
    ("record_locks_of_local_programs_count", "uses flock(2), which record locks do not see"),
    ("a_lock_that_is_waited_for_comes_when_it_is_free", "answers \"blocked\" at once"),
    ("a_lock_in_the_way_is_told_as_linux_asks", "refuses F_GETLK as Linux asks it"),
    ("the_owner_of_a_lock_in_the_way_is_told", "gives the question back, not the lock"),
    // Files by path.
    (
        "a_removed_open_file_lives_until_it_is_closed",
        "finds attributes of an open file by its path",
    ),
    ("extended_attributes_outlive_the_name", "finds them by the path"),
    ("a_renamed_open_file_is_still_the_same", "finds a file by the path that it had"),
    ("all_below_an_open_folder_moves_with_it", "finds a file by the path that it had"),
    ("what_others_moved_is_found_again", "finds a file by the path that it had"),
    ("a_file_that_was_replaced_is_still_what_its_fid_names", "has the new one for it"),
    ("a_file_that_others_replaced_is_not_taken_for_the_new_one", "opens the new one"),
    // What qids and names tell.
    ("qids_change_with_the_file", "gives each qid version 0, which lets no client cache"),
    ("nothing_above_the_folder_is_named", "lists `..` with the outer folder's number"),
    // Sessions.
    ("an_msize_of_a_mebibyte_is_agreed", "takes 65,536 bytes at most"),
    ("a_count_above_msize_is_cut", "answers EIO"),
    ("a_version_begins_anew", "keeps all fids; through our demux there is no second version"),
    ("another_version_is_unknown", "answers EIO"),
    ("a_fid_in_use_is_not_made_again", "makes it again"),
    ("a_fid_that_is_none_has_an_errno_of_its_own", "answers EIO"),
    ("a_walk_that_stops_makes_no_fid", "makes one of the last name that it found"),
    ("a_walk_in_place_that_stops_leaves_the_fid_where_it_was", "leaves it at the last name found"),
    // Operations.
    (
        "unlinkat_and_renameat_are_known",
        "knows them not; Linux asks a second time in the older form",
    ),
    ("a_name_is_removed_as_what_it_is_taken_for", "removes files and folders alike"),
    ("a_create_is_refused_where_nothing_may_change_also_of_what_is_there", "opens what is there"),
    ("direct_access_is_the_clients_own_affair", "refuses O_DIRECT"),
    ("an_access_mode_that_is_none_is_refused", "opens with it"),
    (
        "a_named_pipe_is_not_waited_for",
        "opens named pipes; without a second end that holds a thread",
    ),
    ("a_count_that_no_entry_fits_into_is_refused", "says that the folder has ended"),
    ("what_a_link_is_not_has_its_errno", "answers ELOOP to what would follow it"),
    ("a_target_is_no_longer_than_a_message", "sends more than msize, which ends the stream"),
    ("an_empty_extended_attribute_is_one", "takes it for a removal"),
    ("an_extended_attribute_is_written_in_order_and_whole", "takes the pieces in any order"),
    ("an_extended_attribute_too_large_is_refused_at_once", "refuses it when it is written"),
];

/// The server that a case runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum On {
    /// The embedded one, in this process.
    Session,
    /// The embedded one, at the far end of a socket.
    Worker,
    /// Debian's diod.
    Diod,
}

impl On {
    /// A client of `folder`, attached.
    pub fn client(self, folder: &Path) -> Client {
        self.serve(folder, false)
    }

    /// A client of `folder` that may not change it.
    pub fn read_only(self, folder: &Path) -> Client {
        self.serve(folder, true)
    }

    fn serve(self, folder: &Path, read_only: bool) -> Client {
        let folder = folder.canonicalize().unwrap();
        match self {
            On::Session if read_only => Client::read_only(&folder),
            On::Session => Client::of(&folder),
            On::Worker => {
                let (ours, its) = UnixStream::pair().unwrap();
                std::thread::spawn(move || {
                    let root = File::open(&folder).unwrap();
                    worker::run(root.into(), &folder, read_only, its.into())
                });
                Client::at(ours, Dialect::Ours)
            }
            On::Diod => {
                let folder = FolderPath::parse(folder.as_os_str()).unwrap();
                let socket = diod::start(&folder, read_only, true).unwrap();
                let user = rustix::process::geteuid().as_raw();
                let folder = folder.as_bytes().to_vec();
                Client::at(socket.into(), Dialect::Diod { folder, user })
            }
        }
    }

    fn run(self, name: &str, case: fn(On)) {
        let lacks = LACKS.iter().find(|(lacking, _)| self == On::Diod && *lacking == name);
        let Some((_, instead)) = lacks else { return case(self) };
        println!("diod {instead}");
        let passed = catch_unwind(AssertUnwindSafe(|| case(self))).is_ok();
        assert!(!passed, "diod does pass this: the table is wrong to say that it {instead}");
    }
}

/// Makes of each case a test on each server.
macro_rules! suite {
    ($($module:ident: $($case:ident)*;)*) => {
        suite!(@ on_session On::Session; $($module: $($case)*;)*);
        suite!(@ on_worker On::Worker; $($module: $($case)*;)*);
        suite!(@ on_diod On::Diod; $($module: $($case)*;)*);

        #[test]
        fn the_table_names_cases() {
            let cases = [$($(stringify!($case)),*),*];
            for (case, _) in LACKS {
                assert!(cases.contains(case), "{case}");
            }
        }
    };
    (@ $server:ident $on:expr; $($module:ident: $($case:ident)*;)*) => {
        mod $server {
            use super::On;
            $($(
                #[test]
                fn $case() {
                    $on.run(stringify!($case), super::$module::$case);
                }
            )*)*
        }
    };
}

suite! {
    session:
        attach_is_to_the_granted_folder_alone
        a_fid_in_use_is_not_made_again
        a_fid_that_is_none_has_an_errno_of_its_own
        a_fid_that_is_none_is_refused
        a_version_is_agreed
        an_msize_of_a_mebibyte_is_agreed
        a_version_begins_anew
        another_version_is_unknown
        a_count_above_msize_is_cut
        nothing_changes_in_a_folder_that_is_only_to_be_read
        a_create_is_refused_where_nothing_may_change_also_of_what_is_there
        a_file_that_others_replaced_is_not_taken_for_the_new_one
        what_others_moved_is_found_again
        what_others_did_meanwhile_is_noticed
        a_flush_is_answered_after_what_it_flushes_or_instead
    ;
    files:
        a_file_is_written_and_read_back
        a_removed_open_file_lives_until_it_is_closed
        a_renamed_open_file_is_still_the_same
        an_access_mode_that_is_none_is_refused
        direct_access_is_the_clients_own_affair
        open_flags_do_what_they_say
        a_named_pipe_is_not_waited_for
        special_files_are_made_but_not_opened
    ;
    folders:
        a_walk_gives_the_qids_of_what_it_found
        a_walk_in_place_that_stops_leaves_the_fid_where_it_was
        a_walk_that_stops_makes_no_fid
        a_folder_is_listed_whole_in_pieces_of_any_size
        a_count_that_no_entry_fits_into_is_refused
        nothing_above_the_folder_is_named
        qids_change_with_the_file
        unlinkat_and_renameat_are_known
        a_name_is_removed_as_what_it_is_taken_for
        folders_are_made_and_removed
        all_below_an_open_folder_moves_with_it
        a_file_that_was_replaced_is_still_what_its_fid_names
        renames_answer_as_the_disk_does
        a_target_is_no_longer_than_a_message
        what_a_link_is_not_has_its_errno
        links_are_made_and_read_and_never_followed
        names_that_are_none_are_refused_everywhere
    ;
    attributes:
        attributes_are_those_of_the_disk
        extended_attributes_come_and_go
        an_extended_attribute_is_written_in_order_and_whole
        an_extended_attribute_too_large_is_refused_at_once
        an_empty_extended_attribute_is_one
        extended_attributes_outlive_the_name
        creates_take_the_group_that_was_asked_for_where_that_may_be
    ;
    locks:
        a_lock_excludes_other_fids_until_it_is_let_go
        a_lock_excludes_other_mounts
        owners_of_one_fid_exclude_each_other
        a_lock_is_of_its_range_alone
        record_locks_of_local_programs_count
        a_lock_in_the_way_is_told
        the_owner_of_a_lock_in_the_way_is_told
        a_lock_in_the_way_is_told_as_linux_asks
        a_lock_that_is_waited_for_comes_when_it_is_free
    ;
}
