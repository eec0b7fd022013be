//! Mount options: the words after `-o`, as mount(8), /etc/fstab and `qvm-mount-folder -o` give them.
//!
//! One table says what each means: a flag of mount(2), a long option of this program under the same
//! name, nothing (mount(8) and systemd act on it themselves), or a refusal with its reason. What is not in
//! the table is refused by name, as an option that does nothing would be a promise that is not kept. Follows
//! mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS". Of two that contradict each other the later counts.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser};
use policy::printable;
use rustix::mount::MountFlags;

use crate::cli::Cli;
use crate::exit::{Exit, Failure};
use crate::plan;

/// What a list of options asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The same as words of this program's command line.
    pub words: Vec<OsString>,
    /// Flags of mount(2) besides reading only and those that every mount has.
    pub flags: MountFlags,
}

/// What an option means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meaning {
    /// Reading only, or not.
    ReadOnly(bool),
    /// Flags of mount(2) that it sets, and those that it takes back.
    Flags { set: MountFlags, clear: MountFlags },
    /// This long option, with the value.
    Value(&'static str),
    /// This long option, which has no value.
    Switch(&'static str),
    /// mount(8), umount(8) or systemd act on it; every mount here has it, or it is the default.
    Nothing,
    /// It cannot be had, for this reason; and what to do.
    Refused(&'static str, &'static str),
}

const NONE: MountFlags = MountFlags::empty();

const fn set(set: MountFlags) -> Meaning {
    Meaning::Flags { set, clear: NONE }
}

const fn clear(clear: MountFlags) -> Meaning {
    Meaning::Flags { set: NONE, clear }
}

/// The flags that say when a file's time of access is written, of which one holds.
const fn atime(set: MountFlags) -> Meaning {
    let all = MountFlags::NOATIME.union(MountFlags::RELATIME).union(MountFlags::STRICTATIME);
    Meaning::Flags { set, clear: all.difference(set) }
}

const SET_ID: &str = "set-id programs and device nodes of the other qube would be live in this one";
const LEAVE_AWAY: &str = "leave it away; every mount is nosuid,nodev";
const SYNC: &str =
    "a write reaches the other qube before it returns, and no mount can promise its disk";
const USE_FSYNC: &str = "leave it away; fsync(2) reaches the disk, cache=none turns caching off";
const OTHER_MOUNT: &str = "it changes a mount that is there, and this makes one from another qube";
const USE_MOUNT: &str = "use mount(8) without -t qvm for it";

const TABLE: &[(&str, Meaning)] = &[
    // This program's own. One that `qvm-mount-folder` has no long option for is unknown here too.
    ("msize", Meaning::Value("msize")),
    ("cache", Meaning::Value("cache")),
    ("via", Meaning::Value("via")),
    ("timeout", Meaning::Value("timeout")),
    ("frontend", Meaning::Value("frontend")),
    ("idmap", Meaning::Value("idmap")),
    ("coherence", Meaning::Value("coherence")),
    ("allow_other", Meaning::Switch("allow-other")),
    ("no_poll", Meaning::Switch("no-poll")),
    // mount(2)'s.
    ("ro", Meaning::ReadOnly(true)),
    ("rw", Meaning::ReadOnly(false)),
    ("noexec", set(MountFlags::NOEXEC)),
    ("exec", clear(MountFlags::NOEXEC)),
    ("noatime", atime(MountFlags::NOATIME)),
    ("relatime", atime(MountFlags::RELATIME)),
    ("strictatime", atime(MountFlags::STRICTATIME)),
    ("atime", clear(MountFlags::NOATIME)),
    ("norelatime", clear(MountFlags::RELATIME)),
    ("nostrictatime", clear(MountFlags::STRICTATIME)),
    ("nodiratime", set(MountFlags::NODIRATIME)),
    ("diratime", clear(MountFlags::NODIRATIME)),
    ("nosymfollow", set(MountFlags::NOSYMFOLLOW)),
    ("symfollow", clear(MountFlags::NOSYMFOLLOW)),
    // What every mount has anyway.
    ("defaults", Meaning::Nothing),
    ("nosuid", Meaning::Nothing),
    ("nodev", Meaning::Nothing),
    ("async", Meaning::Nothing),
    ("nomand", Meaning::Nothing),
    ("silent", Meaning::Nothing),
    ("loud", Meaning::Nothing),
    // For mount(8), umount(8) and systemd.
    ("auto", Meaning::Nothing),
    ("noauto", Meaning::Nothing),
    ("nofail", Meaning::Nothing),
    ("_netdev", Meaning::Nothing),
    ("user", Meaning::Nothing),
    ("nouser", Meaning::Nothing),
    ("users", Meaning::Nothing),
    ("nousers", Meaning::Nothing),
    ("owner", Meaning::Nothing),
    ("noowner", Meaning::Nothing),
    ("group", Meaning::Nothing),
    ("nogroup", Meaning::Nothing),
    ("comment", Meaning::Nothing),
    // What cannot be had.
    ("suid", Meaning::Refused(SET_ID, LEAVE_AWAY)),
    ("dev", Meaning::Refused(SET_ID, LEAVE_AWAY)),
    ("sync", Meaning::Refused(SYNC, USE_FSYNC)),
    ("dirsync", Meaning::Refused(SYNC, USE_FSYNC)),
    (
        "remount",
        Meaning::Refused(
            "what another qube was asked for cannot be changed afterwards",
            "unmount it and mount it again with the other options",
        ),
    ),
    ("bind", Meaning::Refused(OTHER_MOUNT, USE_MOUNT)),
    ("rbind", Meaning::Refused(OTHER_MOUNT, USE_MOUNT)),
    ("move", Meaning::Refused(OTHER_MOUNT, USE_MOUNT)),
    (
        "socket",
        Meaning::Refused(
            "a socket is no mount",
            "offer one with qvm-mount-folder SERVER FOLDER --socket PATH",
        ),
    ),
];

/// Options whose value is somebody else's business.
const WITH_ANY_VALUE: [&str; 2] = ["user", "comment"];

/// Each flag by mount(8)'s name for it.
const NAMES: [(MountFlags, &str); 6] = [
    (MountFlags::NOEXEC, "noexec"),
    (MountFlags::NOATIME, "noatime"),
    (MountFlags::RELATIME, "relatime"),
    (MountFlags::STRICTATIME, "strictatime"),
    (MountFlags::NODIRATIME, "nodiratime"),
    (MountFlags::NOSYMFOLLOW, "nosymfollow"),
];

/// Every option that is known, or refused with a reason; those without an option of this program's left out.
pub fn names_of_all() -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter_map(|(name, _)| Some(find(name.as_bytes())?.0))
}

/// The names of `flags`, as mount(8) takes them.
pub fn names(flags: MountFlags) -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(move |(flag, _)| flags.contains(*flag)).map(|(_, name)| name)
}

/// Those of `flags` that the kernel shows at a mount that has them.
pub fn shown(flags: MountFlags) -> impl Iterator<Item = &'static str> {
    // What is the kernel's default is not asked for by name, nor shown as what was.
    names(flags.difference(MountFlags::RELATIME.union(MountFlags::STRICTATIME)))
}

/// Reads lists of options, each separated by commas. With `sloppy` what is not known is left out, as
/// mount(8) has it for its `-s`; what is refused with a reason is refused then too.
pub fn read<'a>(
    lists: impl IntoIterator<Item = &'a OsString>,
    sloppy: bool,
) -> Result<Options, Failure> {
    let mut options = Options { words: Vec::new(), flags: NONE };
    let mut read_only = false;
    let lists = lists.into_iter().flat_map(|list| list.as_bytes().split(|&byte| byte == b','));
    for word in lists.filter(|word| !word.is_empty()) {
        let (name, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(at) => (&word[..at], Some(OsStr::from_bytes(&word[at + 1..]))),
            None => (word, None),
        };
        let Some((name, meaning)) = find(name) else {
            if sloppy || name.starts_with(b"x-") || name.starts_with(b"X-") {
                continue;
            }
            return Err(unknown(word));
        };
        let value = match (meaning, value) {
            (Meaning::Value(_), None) => {
                let why = format!("mount option {name} needs a value");
                return Err(Failure::new(Exit::Usage, why).hint(format!("write {name}=VALUE")));
            }
            (Meaning::Value(_), value) => value,
            (_, None) => None,
            (_, Some(_)) if WITH_ANY_VALUE.contains(&name) => None,
            (_, Some(_)) => {
                let why = format!("mount option {name} has no value: {}", printable(word));
                return Err(Failure::new(Exit::Usage, why).hint(format!("write {name} alone")));
            }
        };
        match meaning {
            Meaning::ReadOnly(only) => read_only = only,
            Meaning::Flags { set, clear } => {
                options.flags.remove(clear);
                options.flags.insert(set);
            }
            Meaning::Value(_) | Meaning::Switch(_) => {
                options.words.push(long(meaning, name, value.unwrap_or_default())?);
            }
            Meaning::Nothing => {}
            Meaning::Refused(why, hint) => {
                let why = format!("mount option {name} is not offered: {why}");
                return Err(Failure::new(Exit::Usage, why).hint(hint));
            }
        }
    }
    if read_only {
        options.words.push("--read-only".into());
    }
    Ok(options)
}

/// `cli`, which `words` were parsed to, with what its mount options mean: as if that had been written
/// first. An option on the command line itself counts more.
pub fn expand(cli: Cli, words: &[OsString]) -> Result<Cli, Failure> {
    if cli.options.is_empty() {
        return Ok(cli);
    }
    let what = plan::aim(&cli);
    let read = read(&cli.options, cli.sloppy).map_err(|failure| failure.what(&what))?;
    let (name, rest) = words.split_at(words.len().min(1));
    Cli::try_parse_from(name.iter().chain(&read.words).chain(rest))
        .map_err(|error| Failure::new(Exit::Usage, error.kind()).what(what))
}

/// An option's row, where this program knows it.
fn find(name: &[u8]) -> Option<(&'static str, Meaning)> {
    let row = TABLE.iter().find(|(known, _)| known.as_bytes() == name)?;
    match row.1 {
        Meaning::Value(long) | Meaning::Switch(long) => {
            let command = Cli::command();
            command.get_arguments().any(|arg| arg.get_long() == Some(long)).then_some(*row)
        }
        _ => Some(*row),
    }
}

fn unknown(word: &[u8]) -> Failure {
    let why = format!("mount option {} is not known", printable(word));
    Failure::new(Exit::Usage, why)
        .hint("mount.qvm(8) lists the options; -s leaves unknown ones out")
}

/// `--LONG` or `--LONG=VALUE`, once the command line's parser takes it.
fn long(meaning: Meaning, name: &str, value: &OsStr) -> Result<OsString, Failure> {
    let word = match meaning {
        Meaning::Switch(long) => OsString::from(format!("--{long}")),
        Meaning::Value(long) => {
            let mut word = OsString::from(format!("--{long}="));
            word.push(value);
            word
        }
        _ => OsString::new(),
    };
    let trial = ["q".into(), word.clone(), "--".into(), "a".into(), "/".into(), "/".into()];
    let Err(error) = Cli::try_parse_from(trial) else { return Ok(word) };
    let shown = printable(value.as_bytes());
    let why = match std::error::Error::source(&error) {
        Some(why) => format!("mount option {name}={shown}: {why}"),
        None => format!("mount option {name} cannot be {shown:?}", shown = shown.to_string()),
    };
    let failure = Failure::new(Exit::Usage, why);
    Err(match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => failure.hint(format!("it is {}", values.join(", "))),
        _ => failure.hint("mount.qvm(8) says what it can be"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Result<Options, Failure> {
        super::read([&OsString::from(list)], false)
    }

    fn words(list: &str) -> Vec<OsString> {
        read(list).unwrap().words
    }

    #[test]
    fn every_row_is_understood_or_refused_with_a_reason() {
        for (name, meaning) in TABLE {
            let value = match *name {
                "msize" => "=64K",
                "cache" => "=none",
                "timeout" => "=5",
                "frontend" => "=v9fs",
                "idmap" => "=none",
                "coherence" => "=strict",
                "via" => "=local",
                _ => "",
            };
            let read = read(&format!("{name}{value}"));
            match meaning {
                Meaning::Refused(why, _) => {
                    let failure = read.unwrap_err();
                    assert_eq!(failure.exit, Exit::Usage);
                    assert!(failure.why.contains(name) && failure.why.ends_with(why), "{failure}");
                    assert!(failure.hint.is_some());
                }
                Meaning::Value(long) | Meaning::Switch(long) => {
                    let known = Cli::command().get_arguments().any(|a| a.get_long() == Some(long));
                    assert_eq!(read.is_ok(), known, "{name}: {read:?}");
                }
                _ => assert!(read.is_ok(), "{name}: {read:?}"),
            }
        }
    }

    #[test]
    fn what_mount_passes_on_is_understood() {
        // As seen of util-linux 2.38 for a line of /etc/fstab with `user`.
        let options =
            read("ro,noatime,nosymfollow,nosuid,nodev,msize=64K,user,_netdev,nofail,exec");
        let options = options.unwrap();
        assert_eq!(options.words, ["--msize=64K", "--read-only"]);
        assert_eq!(options.flags, MountFlags::NOATIME | MountFlags::NOSYMFOLLOW);
        let more = "rw,user=ann,comment=a=b,x-systemd.automount,x-gvfs-name=Docs,X-mount.mkdir";
        let nothing = Options { words: Vec::new(), flags: NONE };
        assert_eq!(read(more).unwrap(), nothing);
        assert_eq!(read("").unwrap(), nothing);
    }

    #[test]
    fn the_later_of_two_that_contradict_each_other_counts() {
        assert_eq!(words("ro,rw"), [""; 0]);
        assert_eq!(words("rw,ro"), ["--read-only"]);
        for (list, flags) in [
            ("noexec,exec", MountFlags::empty()),
            ("exec,noexec", MountFlags::NOEXEC),
            ("noatime,relatime", MountFlags::RELATIME),
            ("strictatime,noatime,nodiratime", MountFlags::NOATIME | MountFlags::NODIRATIME),
            ("noatime,atime", MountFlags::empty()),
        ] {
            assert_eq!(read(list).unwrap().flags, flags, "{list}");
        }
    }

    #[test]
    fn a_command_line_counts_more_than_its_list() {
        let expanded = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            expand(Cli::try_parse_from(&words).unwrap(), &words)
        };
        let list = ["q", "work", "/srv", "/mnt", "-o", "ro,msize=64K,noexec", "--timeout=7"];
        let cli = expanded(&list).unwrap();
        assert_eq!((cli.read_only, cli.msize.to_str(), cli.timeout), (true, Some("64K"), 7));
        assert_eq!(cli.options, ["ro,msize=64K,noexec"]);
        let cli = expanded(&[&list[..], &["--msize", "1M", "-o", "cache=none"]].concat()).unwrap();
        assert_eq!((cli.read_only, cli.msize.to_str()), (true, Some("1M")));
        assert_eq!(cli.options.len(), 2);
        let failure = expanded(&["q", "work", "/srv", "/mnt", "-o", "x"]).unwrap_err();
        assert_eq!(failure.what.unwrap(), "cannot mount work:/srv on /mnt");
    }

    #[test]
    fn mistakes_are_named() {
        for (list, why) in [
            ("ro,bogus", "mount option bogus is not known"),
            ("bogus=\x1b[1m", "mount option bogus=\\u{1b}[1m is not known"),
            ("readonly", "mount option readonly is not known"),
            ("msize", "mount option msize needs a value"),
            ("ro=1", "mount option ro has no value: ro=1"),
            ("cache=lots", "mount option cache cannot be \"lots\""),
            ("timeout=0", "mount option timeout=0: 0 is not in 1..=86400"),
            ("suid", "mount option suid is not offered"),
        ] {
            let failure = read(list).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.why.starts_with(why), "{failure}");
            assert!(failure.hint.is_some(), "{failure}");
        }
        let hint = read("cache=lots").unwrap_err().hint.unwrap();
        assert_eq!(hint, "it is auto, none, readahead, mmap, loose");
    }

    #[test]
    fn sloppy_leaves_out_what_is_unknown_but_not_what_is_refused() {
        let lists = |list: &str| super::read([&OsString::from(list)], true);
        assert_eq!(lists("bogus,fancy=1,ro").unwrap().words, ["--read-only"]);
        assert!(lists("suid").is_err());
    }

    #[test]
    fn flags_have_their_names_back() {
        let flags = read("noexec,nosymfollow,relatime").unwrap().flags;
        assert_eq!(names(flags).collect::<Vec<_>>(), ["noexec", "relatime", "nosymfollow"]);
        assert_eq!(shown(flags).collect::<Vec<_>>(), ["noexec", "nosymfollow"]);
    }
}
