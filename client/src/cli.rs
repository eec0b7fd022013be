//! The command line, as clap derives it: raw words, nothing checked that needs thought.
//!
//! [`crate::plan`] turns them into something that can be done. Help, and later the man page and the
//! completions, are made from here. `-h` fits a terminal of 24 lines; `--help` says everything.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, ArgGroup, Parser, ValueEnum};

use crate::exit;

/// What is done instead of mounting.
const OTHERS: [&str; 5] = ["list", "watch", "unmount", "complete_servers", "daemon"];

/// What only mounting has a use for.
const MOUNTING: [&str; 16] = [
    "server",
    "folder",
    "mountpoint",
    "read_only",
    "msize",
    "frontend",
    "idmap",
    "coherence",
    "allow_other",
    "cache",
    "options",
    "sloppy",
    "via",
    "socket",
    "timeout",
    "no_poll",
];

/// Mount a folder of another qube.
#[derive(Clone, PartialEq, Eq, Debug, Parser)]
#[command(
    name = "qvm-mount-folder",
    version,
    max_term_width = 80,
    group = ArgGroup::new("looking").multiple(true),
    // The later of two counts, so that an alias of a shell's can be overridden.
    args_override_self = true,
    override_usage = "qvm-mount-folder [OPTIONS] SERVER FOLDER MOUNTPOINT\n       \
                      qvm-mount-folder [OPTIONS] SERVER FOLDER --socket PATH\n       \
                      qvm-mount-folder --list | --watch | --unmount MOUNTPOINT",
    long_about = "Mount a folder of another qube.\n\n\
        The folder appears at MOUNTPOINT when the command returns, and stays until `umount \
        MOUNTPOINT`. dom0's policy decides about every folder, and usually asks. All mounts \
        from one qube share one qrexec call.",
    after_long_help = exit::table(),
)]
pub struct Cli {
    /// The qube that has the folder
    ///
    /// A qube's name, or `@default`, `@dispvm` or `@dispvm:QUBE`, which dom0 resolves.
    #[arg(value_name = "SERVER", required_unless_present_any = OTHERS)]
    pub server: Option<OsString>,

    /// The folder: its path there, or an alias
    ///
    /// An absolute path in the other qube, or an alias that its exports.toml defines.
    #[arg(value_name = "FOLDER", required_unless_present_any = OTHERS)]
    pub folder: Option<OsString>,

    /// An existing folder here, where it appears
    #[arg(
        value_name = "MOUNTPOINT",
        required_unless_present_any = ["socket", "list", "watch", "unmount", "complete_servers", "daemon"],
        conflicts_with = "socket",
    )]
    pub mountpoint: Option<PathBuf>,

    /// Ask for reading only
    ///
    /// A qrexec service of its own (sharedfolders.MountReadOnly), so that dom0 can allow it where
    /// it refuses writing. The server end enforces it.
    #[arg(short = 'r', long)]
    pub read_only: bool,

    /// Largest 9P message: auto, bytes, 64K, 1M
    ///
    /// `auto`, or a number of bytes, or one with K or M (binary) after it, from 4096 to 1M. What is
    /// used is the least of this, of what the kernel takes and of what the other qube takes;
    /// --list shows it. A power of two and 24 lets a read of that power travel as one message.
    /// `auto` takes 524312, and less where memory is small; for later mounts from the same qube what
    /// fits the rate and the round trip that the channel has shown, from 65560 to 1048576.
    #[arg(long, value_name = "SIZE", default_value = "auto", hide_default_value = true)]
    pub msize: OsString,

    /// What makes the mount: auto, v9fs or fuse
    ///
    /// `auto` is `v9fs`, the kernel's 9P file system, where the kernel has it and this user may
    /// mount, as root or through sudo without a password. Else it is `fuse`, which needs neither:
    /// without root the package fuse3 and a mount point of one's own.
    #[arg(long, value_name = "NAME", value_enum, default_value_t, hide_default_value = true)]
    #[arg(hide_possible_values = true)]
    pub frontend: FrontEnd,

    /// Whose files they are, with FUSE: user, none
    ///
    /// `user` shows the owner of the shared folder as the mounting user, and the reverse; `none`
    /// shows the other qube's numbers.
    #[arg(long, value_name = "MAP", value_enum, default_value_t, hide_default_value = true)]
    #[arg(hide_possible_values = true, hide_short_help = true)]
    pub idmap: IdMapMode,

    /// How old what is shown may be: 500ms, 2s, or strict (1s if not given)
    ///
    /// For so long this qube believes names and attributes before it asks again; most changes in
    /// the other qube show sooner. What is changed through the mount itself shows at once. `strict`
    /// asks each time.
    #[arg(long, value_name = "TIME", default_value = "1s", hide_default_value = true)]
    #[arg(hide_short_help = true)]
    pub coherence: OsString,

    /// Let other users see the mount, with FUSE
    ///
    /// Needs `user_allow_other` in /etc/fuse.conf. Mounts made by root are seen by all.
    #[arg(long, hide_short_help = true)]
    pub allow_other: bool,

    /// v9fs's cache mode: auto, none, readahead, mmap, loose
    ///
    /// `auto` is `mmap` on kernels before 6.4 and `readahead` from 6.4 on: what is written is in
    /// the other qube when the write returns, and changes made there are seen. From 6.4 on, a
    /// program that maps a file for shared writing (some databases do) needs `mmap`, which writes
    /// back later. `loose` never notices changes made in the other qube, and before 6.4 a lost
    /// connection can then take this qube's kernel down.
    #[arg(long, value_name = "MODE", value_enum, default_value_t, hide_default_value = true)]
    #[arg(hide_possible_values = true)]
    pub cache: CacheMode,

    /// Without qrexec: by COMMAND, `ssh`, or `local`
    ///
    /// COMMAND is run as `COMMAND SERVER SERVICE+ARGUMENT`, with the channel on its stdin and
    /// stdout, in place of qrexec-client-vm. `ssh` runs `ssh SERVER qvm-folder-server
    /// SERVICE+ARGUMENT`; it cannot ask for a password. `local` starts the service on this machine.
    #[arg(long, value_name = "COMMAND")]
    pub via: Option<OsString>,

    /// Offer 9P at a Unix socket instead of mounting
    ///
    /// Any 9P2000.L client of this user can connect to it, until this command is interrupted. Each
    /// connection is a 9P session of its own.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Options of mount(8), such as noexec,nosymfollow
    ///
    /// A list separated by commas, as in /etc/fstab: ro, noexec, noatime and its like, nosymfollow,
    /// and msize=SIZE, cache=MODE and others of this program's by name. mount.qvm(8) lists them.
    #[arg(short, long, value_name = "LIST", action = ArgAction::Append)]
    pub options: Vec<OsString>,

    /// Mount options that are not known are left out, as mount(8) asks a helper to.
    #[arg(long, hide = true)]
    pub sloppy: bool,

    /// How long the far end may pause (30 if not given)
    ///
    /// Counted from the far end's first byte: before it, a person may be reading dom0's question,
    /// or the qube may be starting.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, hide_default_value = true)]
    #[arg(hide_short_help = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub timeout: u32,

    /// Sleep at once when there is nothing to do
    ///
    /// Otherwise the channel's daemon looks for work for up to 50 microseconds before it sleeps,
    /// where that pays: answers come sooner, for some more time of the processor. Counts for the
    /// channel that this mount makes, not for one that is there.
    #[arg(long, hide_short_help = true)]
    pub no_poll: bool,

    /// Show the mounts and what they use
    ///
    /// For each mount: the largest 9P message (MSIZE), bytes sent and received, requests that wait
    /// for an answer now, and the time that half and 99 of a hundred took at most. For each channel:
    /// the process of its call, its daemon, and bytes a second. With --verbose: where the logs are.
    #[arg(long, group = "looking", conflicts_with_all = MOUNTING)]
    pub list: bool,

    /// The same as JSON
    ///
    /// qvm-mount-folder(1) says what it has in it.
    #[arg(long, requires = "looking", hide_short_help = true)]
    pub json: bool,

    /// The same again and again, every 2 s if not said
    ///
    /// `q` or Ctrl-C ends it.
    #[arg(long, group = "looking", conflicts_with_all = MOUNTING, value_name = "SECONDS")]
    #[arg(num_args = 0..=1, default_missing_value = "2")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub watch: Option<u64>,

    /// Unmount a folder, as umount does
    #[arg(long, value_name = "PATH", conflicts_with_all = MOUNTING)]
    #[arg(conflicts_with_all = ["list", "watch"])]
    pub unmount: Option<PathBuf>,

    /// Print the qubes that were mounted from, the last one first, for completions.
    #[arg(long, hide = true, conflicts_with_all = MOUNTING)]
    pub complete_servers: bool,

    /// Say what is done; twice: say more
    ///
    /// QVM_MOUNT_FOLDER_LOG=error, warning, info or debug in the environment does the same. The
    /// daemon that a first mount starts has the same level.
    #[arg(short, long, action = ArgAction::Count, hide_short_help = true)]
    pub verbose: u8,

    /// The channel daemon's own entry; its words are the daemon's business.
    #[arg(long, hide = true, num_args = 0.., allow_hyphen_values = true, exclusive = true)]
    pub daemon: Option<Vec<OsString>>,
}

/// `--frontend`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum FrontEnd {
    /// What this kernel and this user's rights allow.
    #[default]
    Auto,
    /// The kernel's 9P file system.
    V9fs,
    /// FUSE.
    Fuse,
}

/// `--idmap`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum IdMapMode {
    /// The owner of the shared folder is the mounting user.
    #[default]
    User,
    /// The server's numbers.
    None,
}

/// `--cache`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum CacheMode {
    /// What is best and safe on the running kernel.
    #[default]
    Auto,
    /// Every read and write goes to the server.
    None,
    /// Reads ahead, writes through.
    Readahead,
    /// Shared writable mappings work.
    Mmap,
    /// Nobody else changes the folder.
    Loose,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_daemon_is_left_alone() {
        let cli = Cli::try_parse_from(["q", "--daemon", "a", "--list", "-x"]).unwrap();
        assert_eq!(cli.daemon, Some(vec!["a".into(), "--list".into(), "-x".into()]));
    }

    #[test]
    fn a_socket_takes_the_mount_points_place() {
        assert!(Cli::try_parse_from(["q", "work", "/srv", "--socket", "/run/x"]).is_ok());
        assert!(Cli::try_parse_from(["q", "work", "/srv", "/mnt", "--socket", "/run/x"]).is_err());
        assert!(Cli::try_parse_from(["q", "work", "/srv"]).is_err());
    }
}
