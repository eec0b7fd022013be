//! `mount.qvm`: this program as mount(8) calls it, `mount.qvm SPEC DIR [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE]`.
//!
//! Follows mount(8), "EXTERNAL HELPERS". What comes out is the command line that a person would have
//! written. For a line of /etc/fstab with `user`, mount(8) gives up its set-uid rights before it starts a
//! helper, so this runs as that user and mounts as `qvm-mount-folder` does then.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use policy::printable;

use crate::cli::Cli;
use crate::exit::{Exit, Failure};
use crate::{options, plan};

/// The name by which the program is this.
pub const NAME: &str = "mount.qvm";

/// Mount a folder of another qube, for mount(8).
///
/// Not to be run by hand: mount(8) runs it for `mount -t qvm SERVER:FOLDER DIR` and for lines of
/// /etc/fstab with type qvm.
#[derive(Clone, PartialEq, Eq, Debug, Parser)]
#[command(name = NAME, version, max_term_width = 80, args_override_self = true)]
pub struct Helper {
    /// The qube and its folder: SERVER:/FOLDER or SERVER:ALIAS
    #[arg(value_name = "SPEC")]
    pub spec: OsString,

    /// Where it is to be mounted
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Mount options, separated by commas
    #[arg(short = 'o', value_name = "OPTIONS", action = ArgAction::Append)]
    pub options: Vec<OsString>,

    /// Leave out mount options that are not known
    #[arg(short = 's')]
    pub sloppy: bool,

    /// Check everything on this side, and mount nothing
    #[arg(short = 'f')]
    pub fake: bool,

    /// Accepted and without effect: there is no /etc/mtab to write
    #[arg(short = 'n')]
    pub no_mtab: bool,

    /// Say what is done
    #[arg(short = 'v', action = ArgAction::Count)]
    pub verbose: u8,

    /// The file system's type: qvm, or one that begins with `qvm.`
    #[arg(short = 't', value_name = "TYPE")]
    pub kind: Option<OsString>,

    /// The mount namespace to mount in: its file, or a process's id
    #[arg(short = 'N', value_name = "NAMESPACE")]
    pub namespace: Option<PathBuf>,
}

/// The command line that `helper` stands for.
pub fn command_line(helper: &Helper) -> Result<Cli, Failure> {
    let what = || {
        let (spec, dir) = (helper.spec.as_bytes(), helper.dir.as_os_str().as_bytes());
        format!("cannot mount {} on {}", printable(spec), printable(dir))
    };
    cli(helper).map_err(|failure| failure.what(what()))
}

fn cli(helper: &Helper) -> Result<Cli, Failure> {
    let kind = helper.kind.as_deref().unwrap_or(OsStr::new("qvm")).as_bytes();
    if kind != b"qvm" && !kind.starts_with(b"qvm.") {
        let why = format!("{} is not the type of file system that this mounts", printable(kind));
        return Err(Failure::new(Exit::Usage, why).hint("write qvm as its type"));
    }
    let (server, folder) = split(&helper.spec)?;
    let options = options::read(&helper.options, helper.sloppy)?;
    let mut words = vec![OsString::from(NAME)];
    words.extend(options.words);
    words.extend((0..helper.verbose).map(|_| "-v".into()));
    words.extend(["--".into(), server.to_owned(), folder.to_owned()]);
    words.push(helper.dir.clone().into());
    // Each word has been through the parser before.
    let mut cli = Cli::try_parse_from(words)
        .map_err(|error| Failure::new(Exit::Usage, error.kind()).hint("see mount.qvm(8)"))?;
    cli.options.clone_from(&helper.options);
    cli.sloppy = helper.sloppy;
    Ok(cli)
}

/// Enters the mount namespace that is asked for.
pub fn enter(helper: &Helper) -> Result<(), Failure> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let Some(given) = &helper.namespace else { return Ok(()) };
    let bytes = given.as_os_str().as_bytes();
    let path = match bytes.iter().all(u8::is_ascii_digit) {
        true => PathBuf::from(format!("/proc/{}/ns/mnt", given.display())),
        false => given.clone(),
    };
    let entered = std::fs::File::open(path).and_then(|file| {
        let fd = std::os::fd::AsFd::as_fd(&file);
        Ok(move_into_link_name_space(fd, Some(LinkNameSpaceType::Mount))?)
    });
    entered.map_err(|error| {
        let why = format!("mount namespace {} cannot be entered: {error}", printable(bytes));
        Failure::new(Exit::NoRight, why)
            .hint("it takes root, and a process's id or its ns/mnt file")
    })
}

/// `SERVER:FOLDER` in two. Of `@dispvm:QUBE:FOLDER` the first two words are the server: an alias has no
/// colon in it, and a qube's name no slash.
fn split(spec: &OsStr) -> Result<(&OsStr, &OsStr), Failure> {
    const DISPOSABLE: &[u8] = b"@dispvm:";
    let bytes = spec.as_bytes();
    let from = match bytes.strip_prefix(DISPOSABLE) {
        Some(rest) if !rest.starts_with(b"/") && rest.contains(&b':') => DISPOSABLE.len(),
        _ => 0,
    };
    let colon = bytes[from..].iter().position(|&byte| byte == b':').map(|at| from + at);
    let parts = colon.map(|at| (&bytes[..at], &bytes[at + 1..]));
    match parts {
        Some((server, folder)) if !server.is_empty() && !folder.is_empty() => {
            Ok((OsStr::from_bytes(server), OsStr::from_bytes(folder)))
        }
        _ => {
            let why = format!("{} does not say which folder of which qube", printable(bytes));
            Err(Failure::new(Exit::Usage, why)
                .hint("write SERVER:/FOLDER or SERVER:ALIAS, such as work:/home/user/Docs"))
        }
    }
}

/// mount(8)'s exit code for one of this program's (mount(8), "EXIT STATUS").
pub fn exit_code(exit: Exit) -> u8 {
    match exit {
        Exit::Done => 0,
        Exit::Usage | Exit::Msize | Exit::NoRight => 1,
        Exit::Interrupted => 8,
        _ => 32,
    }
}

/// What `helper` is to do, checked.
pub fn plan(helper: &Helper) -> Result<plan::Plan, Failure> {
    match plan::plan(command_line(helper)?)? {
        plan::Task::Mount(plan) => Ok(plan),
        _ => Err(Failure::new(Exit::Usage, "nothing to mount is named")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(words: &[&str]) -> Helper {
        Helper::try_parse_from([&["mount.qvm"], words].concat()).unwrap()
    }

    #[test]
    fn specs() {
        for (spec, server, folder) in [
            ("work:/srv", "work", "/srv"),
            ("work:/srv:2/a:b", "work", "/srv:2/a:b"),
            ("work:media", "work", "media"),
            ("@default:/srv", "@default", "/srv"),
            ("@dispvm:/srv", "@dispvm", "/srv"),
            ("@dispvm:/a:b", "@dispvm", "/a:b"),
            ("@dispvm:media", "@dispvm", "media"),
            ("@dispvm:deb-dvm:/srv:x", "@dispvm:deb-dvm", "/srv:x"),
            ("@dispvm:deb-dvm:media", "@dispvm:deb-dvm", "media"),
        ] {
            let parts = split(OsStr::new(spec)).unwrap();
            assert_eq!(parts, (OsStr::new(server), OsStr::new(folder)), "{spec}");
        }
        for spec in ["work", "/srv", ":/srv", "work:", "", "/dev/sda1"] {
            let failure = split(OsStr::new(spec)).unwrap_err();
            assert!(failure.hint.unwrap().contains("SERVER:/FOLDER"), "{spec}");
        }
    }

    #[test]
    fn mount_s_words_become_a_command_line() {
        let words = ["work:/My docs", "/mnt", "-s", "-f", "-n", "-v", "-o", "ro,noexec,msize=64K"];
        let cli = command_line(&helper(&[&words[..], &["-t", "qvm"]].concat())).unwrap();
        assert_eq!(cli.server.unwrap(), "work");
        assert_eq!(cli.folder.unwrap(), "/My docs");
        assert_eq!(cli.mountpoint.unwrap(), PathBuf::from("/mnt"));
        assert_eq!((cli.read_only, cli.verbose, cli.msize), (true, 1, "64K".into()));
        // Options may come before what they are for, and a folder may look like one.
        let cli = command_line(&helper(&["-o", "ro", "work:-x", "/mnt"])).unwrap();
        assert_eq!(cli.folder.unwrap(), "-x");
    }

    #[test]
    fn mistakes_name_what_could_not_be_mounted() {
        for (words, why) in [
            (&["work", "/mnt"][..], "does not say which folder"),
            (&["work:/srv", "/mnt", "-o", "bogus"], "mount option bogus is not known"),
            (&["work:/srv", "/mnt", "-t", "nfs"], "nfs is not the type"),
        ] {
            let failure = command_line(&helper(words)).unwrap_err();
            let what = format!("cannot mount {} on /mnt", words[0]);
            assert_eq!(failure.what.as_deref(), Some(what.as_str()));
            assert!(failure.why.contains(why), "{failure}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_mount() {
        for exit in Exit::ALL {
            let code = exit_code(exit);
            assert_eq!(code == 0, exit == Exit::Done);
            assert!([0, 1, 8, 32].contains(&code));
        }
    }
}
