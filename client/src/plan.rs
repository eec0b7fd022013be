//! From the words of a command line to something that can be done.
//!
//! Everything that can be found out on this side is found out here, before another qube is asked:
//! a person in dom0 should not be bothered for a mount that cannot succeed. What comes out needs no
//! further checks. Nothing is changed here, and nothing sent.

use std::ffi::{OsStr, OsString};
use std::fs::FileType;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, path};

use policy::name::NameError;
use policy::{Folder, Target, printable};
use rustix::mount::MountFlags;
use transport::id::Msize;

use crate::cli::{CacheMode, Cli, FrontEnd, IdMapMode};
use crate::exit::{Exit, Failure};
use crate::frontend::mountinfo::{self, Entry};
use crate::status::Show;
use crate::{kernel, options};

const FOLDER_HINT: &str =
    "write its whole path as it is in the other qube, such as /home/user/Docs, or its alias there";

/// What a run is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Task {
    /// Mount a folder, or offer it at a socket.
    Mount(Plan),
    /// Show what is mounted.
    List(Show),
    /// Unmount what is there.
    Unmount(PathBuf),
    /// Print whom was mounted from.
    CompleteServers,
    /// Be the channel daemon; its words, unread.
    Daemon(Vec<OsString>),
}

/// A mount, with everything checked that can be checked on this side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Whom to call.
    pub target: Target,
    /// The folder in the other qube.
    pub folder: Folder,
    /// `SERVICE+ARGUMENT` of the call for it, at most 200 bytes.
    pub service: String,
    /// Where it is to appear.
    pub place: Place,
    /// How large messages are to be.
    pub msize: MsizeChoice,
    /// How v9fs is to cache.
    pub cache: CacheMode,
    /// What makes the mount.
    pub frontend: FrontEnd,
    /// How old what is shown may be.
    pub coherence: Duration,
    /// How FUSE is to show it.
    pub fuse: FuseOptions,
    /// Whether only reading is asked for. `service` says so too.
    pub read_only: bool,
    /// Flags of mount(2) besides reading only and `nosuid,nodev`, which every mount has.
    pub flags: MountFlags,
    /// Who makes the call.
    pub via: Via,
    /// How long the far end may pause once it has begun to answer.
    pub timeout: Duration,
    /// The channel is to sleep at once when there is nothing to do.
    pub no_poll: bool,
    /// How much to say: 0, 1 or more.
    pub verbose: u8,
}

/// What only FUSE can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FuseOptions {
    /// Whose files they appear to be.
    pub idmap: IdMapMode,
    /// Others than the mounting user may see it.
    pub allow_other: bool,
}

impl FuseOptions {
    /// What nobody has asked otherwise.
    pub const DEFAULT: FuseOptions = FuseOptions { idmap: IdMapMode::User, allow_other: false };
}

/// Where a folder appears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// Mounted on this existing folder: an absolute path without symbolic links.
    MountPoint(PathBuf),
    /// Offered at a Unix socket of this absolute path. Its folder exists, and nothing but a socket
    /// is there yet.
    Socket(PathBuf),
}

/// `--msize`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsizeChoice {
    /// What is best for this kernel, memory and channel.
    Auto,
    /// This one, or a warning that says what was used instead.
    Exactly(Msize),
}

/// Who makes the call.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Via {
    /// qrexec-client-vm, at this absolute path.
    Qrexec(PathBuf),
    /// Nobody: the service runs on this machine.
    Local,
    /// A program in qrexec-client-vm's place, at this absolute path, run as
    /// `PROGRAM TARGET SERVICE+ARGUMENT`.
    Command(PathBuf),
    /// ssh, at this absolute path, run as `ssh HOST qvm-folder-server SERVICE+ARGUMENT`.
    Ssh(PathBuf),
}

/// As people know it; safe to print.
impl std::fmt::Display for Via {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Via::Qrexec(_) => f.write_str("qrexec"),
            Via::Local => f.write_str("local"),
            Via::Ssh(_) => f.write_str("ssh"),
            Via::Command(path) => shown(path).fmt(f),
        }
    }
}

impl Plan {
    /// `SERVER:FOLDER` as the mount's source, in `findmnt` and such. Bytes, not fit for a terminal.
    pub fn source(&self) -> OsString {
        let mut source = OsString::from(self.target.as_str());
        source.push(":");
        source.push(OsStr::from_bytes(self.folder.as_bytes()));
        source
    }

    /// What a failure of this plan could not do: `cannot mount work:/srv on /mnt/srv`. Fit for a
    /// terminal.
    pub fn aim(&self) -> String {
        let (target, folder) = (&self.target, &self.folder);
        match &self.place {
            Place::MountPoint(path) => {
                format!("cannot mount {target}:{folder} on {}", shown(path))
            }
            Place::Socket(path) => {
                format!("cannot offer {target}:{folder} at socket {}", shown(path))
            }
        }
    }

    /// The msize to ask for.
    pub fn asked_msize(&self) -> Msize {
        match self.msize {
            MsizeChoice::Auto => kernel::auto_msize(kernel::memory()),
            MsizeChoice::Exactly(msize) => msize,
        }
    }
}

/// What `cli` asks for, checked. A failure says what could not be done, as far as that is known.
pub fn plan(cli: Cli) -> Result<Task, Failure> {
    if let Some(words) = cli.daemon {
        return Ok(Task::Daemon(words));
    }
    if cli.list || cli.watch.is_some() {
        let (json, watch) = (cli.json, cli.watch);
        return Ok(Task::List(Show { json, watch, verbose: cli.verbose > 0 }));
    }
    if let Some(path) = cli.unmount {
        return Ok(Task::Unmount(path));
    }
    if cli.complete_servers {
        return Ok(Task::CompleteServers);
    }
    let what = aim(&cli);
    mount(cli).map(Task::Mount).map_err(|failure| failure.what(what))
}

/// [`Plan::aim`] before there is a plan.
pub(crate) fn aim(cli: &Cli) -> String {
    let word = |word: &Option<OsString>| {
        printable(word.as_deref().unwrap_or_default().as_bytes()).to_string()
    };
    let (server, folder) = (word(&cli.server), word(&cli.folder));
    match (&cli.socket, &cli.mountpoint) {
        (Some(path), _) => format!("cannot offer {server}:{folder} at socket {}", shown(path)),
        (None, path) => {
            let path = path.as_deref().unwrap_or(Path::new(""));
            format!("cannot mount {server}:{folder} on {}", shown(path))
        }
    }
}

fn mount(cli: Cli) -> Result<Plan, Failure> {
    let target = target(cli.server.as_deref().unwrap_or_default())?;
    let folder = Folder::parse(cli.folder.as_deref().unwrap_or_default())
        .map_err(|error| Failure::new(Exit::Usage, error).hint(FOLDER_HINT))?;
    let service = folder.service_with_argument(cli.read_only).map_err(|error| {
        Failure::new(Exit::Usage, &error)
            .hint("give the folder an alias in exports.toml of the other qube, and mount that")
    })?;
    let flags = options::read(&cli.options, cli.sloppy)?.flags;
    let msize = msize(&cli.msize)?;
    let coherence = coherence(&cli.coherence)?;
    let place = match (cli.socket, cli.mountpoint) {
        (Some(path), _) => Place::Socket(socket(&path)?),
        (None, Some(path)) => Place::MountPoint(mount_point(&path)?),
        (None, None) => return Err(Failure::new(Exit::Usage, "no mount point is given")),
    };
    let via = via(cli.via.as_deref())?;
    if matches!(via, Via::Ssh(_)) && target.qube().is_none() && target.as_str().starts_with('@') {
        let why = format!("{target} is dom0's to resolve, and ssh does not ask dom0");
        return Err(Failure::new(Exit::Usage, why).hint("name a host that ssh knows"));
    }
    let plan = Plan {
        target,
        folder,
        service,
        place,
        msize,
        cache: cli.cache,
        frontend: cli.frontend,
        coherence,
        fuse: FuseOptions { idmap: cli.idmap, allow_other: cli.allow_other },
        read_only: cli.read_only,
        flags,
        via,
        timeout: Duration::from_secs(cli.timeout.into()),
        no_poll: cli.no_poll,
        verbose: cli.verbose,
    };
    if let Place::MountPoint(path) = &plan.place {
        unused(&plan, path)?;
    }
    Ok(plan)
}

/// Whether a mount point is free of this program's own mounts. Another one could be covered, as mount(8)
/// covers it, but two of the same kind at one place are more likely one too many.
fn unused(plan: &Plan, path: &Path) -> Result<(), Failure> {
    let Some(entry) = mountinfo::at(path).ok().flatten().filter(Entry::is_ours) else {
        return Ok(());
    };
    let source = printable(entry.source.as_bytes());
    let already = if entry.source == plan.source() { " already" } else { "" };
    let why = format!("the mount point is in use: {source} is mounted there{already}");
    Err(Failure::new(Exit::MountPoint, why)
        .hint(format!("unmount it first: qvm-mount-folder --unmount {}", shown(path))))
}

fn target(word: &OsStr) -> Result<Target, Failure> {
    let text = word.to_str().ok_or(NameError::Character);
    text.and_then(str::parse).map_err(|error| {
        Failure::new(Exit::Usage, format!("{} is no qube: {error}", printable(word.as_bytes())))
            .hint("name the qube as dom0 does, or let dom0 decide with @default")
    })
}

/// Reads `--coherence`: `strict`, or a time such as 500ms, 2s, or 2.
fn coherence(word: &OsStr) -> Result<Duration, Failure> {
    if word == "strict" {
        return Ok(Duration::ZERO);
    }
    let time = |text: &str| {
        let (digits, unit) = match text.strip_suffix("ms") {
            Some(digits) => (digits, 1),
            None => (text.strip_suffix('s').unwrap_or(text), 1000),
        };
        digits.parse::<u64>().ok()?.checked_mul(unit)
    };
    // A day: what is older is not coherent by any measure.
    let time = word.to_str().and_then(time).filter(|&time| time <= 86_400_000);
    time.map(Duration::from_millis).ok_or_else(|| {
        let shown = printable(word.as_bytes());
        let why = format!("--coherence {shown} is no time; write strict, or such as 500ms, 2s");
        Failure::new(Exit::Usage, why).hint("1s is what is used without it")
    })
}

/// Reads `--msize`: `auto`, bytes, or `64K`, `1M` (binary).
fn msize(word: &OsStr) -> Result<MsizeChoice, Failure> {
    if word == "auto" {
        return Ok(MsizeChoice::Auto);
    }
    let advice = "auto takes what is best here; 524312 is good for large files";
    let shown = printable(word.as_bytes());
    let bytes = word.to_str().and_then(size).ok_or_else(|| {
        Failure::new(
            Exit::Msize,
            format!("msize {shown} is no size; write auto, a number of bytes, or such as 64K, 1M"),
        )
        .hint(advice)
    })?;
    u32::try_from(bytes).ok().and_then(Msize::new).map(MsizeChoice::Exactly).ok_or_else(|| {
        let (min, max) = (Msize::MIN, Msize::MAX);
        Failure::new(
            Exit::Msize,
            format!("msize {shown} is out of range; it is from {min} to {max} bytes (4K to 1M)"),
        )
        .hint(advice)
    })
}

/// A number of bytes, with an optional binary suffix. One beyond 64 bits is the largest there is.
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX).saturating_mul(unit))
}

/// An existing folder, by its absolute path without symbolic links.
fn mount_point(path: &Path) -> Result<PathBuf, Failure> {
    let unusable = |why: &str| {
        Failure::new(Exit::MountPoint, format!("the mount point {} {why}", shown(path)))
    };
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound if fs::symlink_metadata(path).is_ok() => {
            unusable("is a symbolic link that leads nowhere").hint("name an existing folder")
        }
        ErrorKind::NotFound => {
            unusable("does not exist").hint(format!("make it first: mkdir -p {}", shown(path)))
        }
        ErrorKind::NotADirectory => {
            unusable("lies below something that is not a folder").hint("name an existing folder")
        }
        _ if is_dead_mount(&error) => unusable("is a mount whose other end is gone")
            .hint(format!("unmount it first: qvm-mount-folder --unmount {}", shown(path))),
        _ => unusable(&format!("cannot be looked at: {}", text(&error))),
    })?;
    if !metadata.is_dir() {
        let what = kind(metadata.file_type());
        return Err(unusable(&format!("is {what}, not a folder")).hint("name an existing folder"));
    }
    fs::canonicalize(path)
        .map_err(|error| unusable(&format!("cannot be looked at: {}", text(&error))))
}

/// Where a socket can be made: the absolute path, its folder resolved.
fn socket(path: &Path) -> Result<PathBuf, Failure> {
    // sockaddr_un has 108 bytes for the path and its final NUL (unix(7)).
    const MAX: usize = 107;
    let unusable = |why: &str| {
        Failure::new(Exit::MountPoint, format!("the socket's path {} {why}", shown(path)))
    };
    let name = path.file_name().ok_or_else(|| unusable("names no file"))?;
    let parent = match path.parent() {
        None => Path::new("."),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    let folder = fs::canonicalize(parent).map_err(|error| {
        unusable(&format!("cannot be used, because of its folder: {}", text(&error)))
            .hint("name a file in an existing folder")
    })?;
    let whole = folder.join(name);
    if whole.as_os_str().len() > MAX {
        return Err(unusable(&format!("is too long; {MAX} bytes is the most for a socket"))
            .hint("use a shorter path, such as one below $XDG_RUNTIME_DIR"));
    }
    match fs::symlink_metadata(&whole) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let what = kind(metadata.file_type());
            Err(unusable(&format!("exists and is {what}"))
                .hint("name a file that is not there yet"))
        }
        _ => Ok(whole),
    }
}

fn via(word: Option<&OsStr>) -> Result<Via, Failure> {
    let Some(word) = word else {
        return find_program("qrexec-client-vm".as_ref()).map(Via::Qrexec).ok_or_else(|| {
            Failure::new(Exit::Qrexec, "qrexec-client-vm is not there; this is no qube of Qubes OS")
                .hint("without Qubes, use --via local or --via COMMAND")
        });
    };
    if word == "local" {
        return Ok(Via::Local);
    }
    if word == "ssh" {
        return find_program(word).map(Via::Ssh).ok_or_else(|| {
            Failure::new(Exit::Usage, "via ssh: ssh is not installed")
                .hint("install the package openssh-client")
        });
    }
    find_program(word).map(Via::Command).ok_or_else(|| {
        let shown = printable(word.as_bytes());
        Failure::new(Exit::Usage, format!("via {shown}: no such program"))
            .hint("name one program, by its path or as found in PATH, without arguments")
    })
}

/// The absolute path of a program that can be run, found as a shell would.
pub(crate) fn find_program(program: &OsStr) -> Option<PathBuf> {
    let runs = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if program.is_empty() {
        return None;
    }
    if program.as_bytes().contains(&b'/') {
        // The daemon works in another folder.
        return path::absolute(program).ok().filter(runs);
    }
    env::split_paths(&search_path())
        .filter_map(|folder| path::absolute(folder.join(program)).ok())
        .find(runs)
}

/// PATH, or where programs are by custom: mount(8) gives its helpers none.
pub(crate) fn search_path() -> OsString {
    const CUSTOM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    env::var_os("PATH").unwrap_or_else(|| CUSTOM.into())
}

/// What is in the way, with its article.
fn kind(file_type: FileType) -> &'static str {
    match file_type {
        _ if file_type.is_dir() => "a folder",
        _ if file_type.is_file() => "a regular file",
        _ if file_type.is_symlink() => "a symbolic link",
        _ if file_type.is_socket() => "a socket",
        _ if file_type.is_fifo() => "a named pipe",
        _ if file_type.is_block_device() || file_type.is_char_device() => "a device",
        _ => "something else",
    }
}

/// What a mount answers whose server is gone: v9fs EIO, FUSE ENOTCONN, either ESTALE.
fn is_dead_mount(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::IO | Errno::NOTCONN | Errno::STALE | Errno::CONNRESET))
}

/// The system's text in this program's style: lower case, without the number.
fn text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

fn shown(path: &Path) -> impl std::fmt::Display + '_ {
    printable(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn task(words: &[&str]) -> Result<Task, Failure> {
        plan(Cli::try_parse_from([&["qvm-mount-folder"], words].concat()).unwrap())
    }

    fn plan_for(words: &[&str]) -> Plan {
        match task(words) {
            Ok(Task::Mount(plan)) => plan,
            other => panic!("{other:?}"),
        }
    }

    fn failure(words: &[&str]) -> Failure {
        task(&[words, &["--via", "local"]].concat()).unwrap_err()
    }

    #[test]
    fn times_are_read() {
        for (word, time) in [
            ("strict", Some(0)),
            ("0", Some(0)),
            ("1s", Some(1000)),
            ("250ms", Some(250)),
            ("3", Some(3000)),
            ("86400s", Some(86_400_000)),
            ("86401s", None),
            ("", None),
            ("s", None),
            ("1.5s", None),
            ("1m", None),
            ("18446744073709551615s", None),
        ] {
            let got = coherence(word.as_ref()).ok();
            assert_eq!(got, time.map(Duration::from_millis), "{word}");
        }
    }

    #[test]
    fn a_plan_has_everything_in_it() {
        let plan = plan_for(&["work", "//srv/./data/", "/usr/../tmp", "--via", "local", "-r"]);
        assert_eq!(plan.target.as_str(), "work");
        assert_eq!(plan.service, "sharedfolders.MountReadOnly+-srv-data");
        assert_eq!(plan.place, Place::MountPoint(fs::canonicalize("/tmp").unwrap()));
        assert_eq!(plan.msize, MsizeChoice::Auto);
        assert_eq!(plan.cache, CacheMode::Auto);
        assert_eq!(plan.via, Via::Local);
        assert_eq!(plan.timeout, Duration::from_secs(30));
        assert_eq!(plan.source(), "work:/srv/data");
        assert_eq!(plan.aim(), "cannot mount work:/srv/data on /tmp");
    }

    #[test]
    fn msizes() {
        for (word, bytes) in [
            ("4096", 4096),
            ("4K", 4096),
            ("64K", 65_536),
            ("512k", 524_288),
            ("524312", 524_312),
            ("1M", 1_048_576),
            ("1048576", 1_048_576),
        ] {
            let plan = plan_for(&["work", "/", "/", "--via", "local", "--msize", word]);
            assert_eq!(plan.msize, MsizeChoice::Exactly(Msize::new(bytes).unwrap()), "{word}");
        }
        for (word, why) in [
            ("4095", "4096 to 1048576"),
            ("0", "4096 to 1048576"),
            ("1048577", "4096 to 1048576"),
            ("2M", "4096 to 1048576"),
            ("99999999999999999999999M", "4096 to 1048576"),
            ("", "is no size"),
            ("K", "is no size"),
            ("+5000", "is no size"),
            ("64KB", "is no size"),
            ("1G", "is no size"),
            ("lots", "is no size"),
            ("0x10000", "is no size"),
        ] {
            let failure = failure(&["work", "/", "/", "--msize", word]);
            assert_eq!(failure.exit, Exit::Msize, "{word}");
            assert!(failure.why.contains(why), "{failure}");
        }
    }

    #[test]
    fn mount_points_that_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (name, why) in [
            ("missing", "does not exist"),
            ("file", "is a regular file, not a folder"),
            ("file/x", "lies below something that is not a folder"),
            ("link", "is a symbolic link that leads nowhere"),
            ("socket", "is a socket, not a folder"),
        ] {
            let failure = failure(&["work", "/srv", &at(name)]);
            assert_eq!(failure.exit, Exit::MountPoint, "{name}");
            assert!(failure.why.ends_with(why), "{failure}");
            assert!(failure.hint.is_some());
        }
    }

    #[test]
    fn a_mount_point_need_not_be_empty_and_may_be_reached_by_a_link() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("real/full")).unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("link")).unwrap();
        let link = folder.path().join("link");
        let plan = plan_for(&["work", "/srv", link.to_str().unwrap(), "--via", "local"]);
        let real = fs::canonicalize(folder.path().join("real")).unwrap();
        assert_eq!(plan.place, Place::MountPoint(real));
    }

    #[test]
    fn sockets() {
        let folder = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        let at = |name: &str| base.join(name).to_str().unwrap().to_owned();
        let plan = plan_for(&["work", "/srv", "--via", "local", "--socket", &at("new")]);
        assert_eq!(plan.place, Place::Socket(base.join("new")));
        fs::write(at("file"), "").unwrap();
        let long = at(&"x".repeat(120));
        for (path, why) in [
            (at("file"), "exists and is a regular file"),
            (at("no/x"), "because of its folder: no such file or directory"),
            (long, "107 bytes is the most"),
            ("/".to_owned(), "names no file"),
        ] {
            let failure = failure(&["work", "/srv", "--socket", &path]);
            assert_eq!(failure.exit, Exit::MountPoint);
            assert!(failure.why.contains(why), "{failure}");
        }
    }

    #[test]
    fn what_makes_the_call_is_found_before_it_is_needed() {
        let via = |word: &str| plan_for(&["work", "/srv", "/", "--via", word]).via;
        assert_eq!(via("/bin/sh"), Via::Command("/bin/sh".into()));
        assert!(matches!(via("sh"), Via::Command(path) if path.is_absolute()));
        let failure = task(&["work", "/srv", "/", "--via", "/no/such"]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        let failure = task(&["work", "/srv", "/", "--via", "/etc/passwd"]).unwrap_err();
        assert!(failure.why.contains("no such program"));
    }

    #[test]
    fn ssh_takes_hosts_and_no_keywords() {
        let failure = task(&["@default", "/srv", "/", "--via", "ssh"]).unwrap_err();
        assert!(failure.why.contains("dom0's to resolve"), "{failure}");
        let plan = plan_for(&["host.example.org", "/srv", "/", "--via", "ssh"]);
        assert!(matches!(plan.via, Via::Ssh(path) if path.is_absolute()));
    }

    #[test]
    fn what_a_person_wrote_is_shown_escaped() {
        let failure = failure(&["wo\x1brk", "/srv", "/mnt"]);
        assert_eq!(
            failure.to_string(),
            "cannot mount wo\\u{1b}rk:/srv on /mnt: wo\\u{1b}rk is no qube: the name of a qube has \
             only letters, digits, '-', '_' and '.' in it\n\
             hint: name the qube as dom0 does, or let dom0 decide with @default"
        );
    }
}
