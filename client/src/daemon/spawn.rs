//! The command line's way to the daemon: find it, or start it.
//!
//! There is one daemon for a person, a server and a way to reach it. With `sudo` it is the invoking
//! person's, so that root's mounts and the person's share a channel.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use transport::local::{MessageSocket, runtime_folder, runtime_folder_of};

use super::Pair;
use crate::exit::{Exit, Failure};
use crate::log;
use crate::plan::{self, Via};
use crate::sys;

/// How long a daemon may take to start, or an old one to go.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked.
const PAUSE: Duration = Duration::from_millis(20);

/// Who the daemon belongs to.
#[derive(Clone, Copy, Debug)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// The person who runs this: through `sudo`, the one who invoked it.
    fn of_this() -> Owner {
        let own = rustix::process::geteuid().as_raw();
        let id = |name| std::env::var(name).ok()?.parse().ok();
        match (own, id("SUDO_UID"), id("SUDO_GID")) {
            (0, Some(uid), Some(gid)) if uid != 0 => Owner { uid, gid },
            _ => Owner { uid: own, gid: rustix::process::getegid().as_raw() },
        }
    }
}

/// A connection to the pair's daemon, started if it is not there.
pub fn connect(pair: &Pair) -> Result<MessageSocket, Failure> {
    let owner = Owner::of_this();
    let folder = folder(owner)?;
    let path = folder.join(socket_name(pair));
    let until = Instant::now() + PATIENCE;
    loop {
        match MessageSocket::connect(&path) {
            Ok(socket) if is_of(&socket, owner) => return Ok(socket),
            Ok(_) => {
                let why = format!("the channel daemon at {} is somebody else's", path.display());
                return Err(Failure::new(Exit::Other, why));
            }
            Err(Errno::NOENT | Errno::CONNREFUSED) => {}
            Err(errno) => {
                let why = format!("cannot reach the channel daemon at {}: {errno}", path.display());
                return Err(Failure::new(Exit::Other, why));
            }
        }
        start(pair, owner)?;
        if Instant::now() > until {
            let why = format!(
                "the channel daemon does not start; its log is {}",
                log_file(&path).display()
            );
            return Err(Failure::new(Exit::Other, why));
        }
    }
}

/// A daemon that there is, by its socket.
#[derive(Debug)]
pub struct Found {
    /// Its socket.
    pub path: PathBuf,
    /// A connection to it, or why there is none.
    pub socket: Result<MessageSocket, Errno>,
}

/// All daemons of this person. What one has left behind that was killed is removed.
pub fn connect_all() -> Vec<Found> {
    let owner = Owner::of_this();
    let Ok(folder) = folder(owner) else { return Vec::new() };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "sock"));
    paths.sort();
    let found = paths.into_iter().filter_map(|path| match MessageSocket::connect(&path) {
        Ok(socket) if !is_of(&socket, owner) => None,
        Err(Errno::CONNREFUSED | Errno::NOENT) => {
            remove_deserted(&path, owner);
            None
        }
        socket => Some(Found { path, socket }),
    });
    found.collect()
}

/// Removes a socket that nobody listens at any more. A daemon that is about to listen holds the lock.
fn remove_deserted(path: &Path, owner: Owner) {
    if owner.uid != rustix::process::geteuid().as_raw() {
        return;
    }
    let Ok(lock) = std::fs::File::open(path.with_extension("lock")) else { return };
    let flags = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    if rustix::fs::flock(&lock, flags).is_ok() && MessageSocket::is_deserted(path) {
        let _ = std::fs::remove_file(path);
    }
}

/// Where the messages of the pair's daemon are, for people.
pub fn log_of(pair: &Pair) -> String {
    match folder(Owner::of_this()) {
        Ok(folder) => log_file(&folder.join(socket_name(pair))).display().to_string(),
        Err(failure) => failure.why,
    }
}

/// Whether a daemon of the right person listens. Root does not look at the folder, which is another's:
/// where that is in /tmp, anybody could have made it, and would give root something to mount.
fn is_of(socket: &MessageSocket, owner: Owner) -> bool {
    socket.peer() == Ok(owner.uid)
}

fn folder(owner: Owner) -> Result<PathBuf, Failure> {
    let folder = if owner.uid == rustix::process::geteuid().as_raw() {
        runtime_folder("client").map_err(|error| Failure::new(Exit::Other, error))?
    } else {
        runtime_folder_of("client", owner.uid)
    };
    Ok(folder)
}

/// A name for the pair's socket: the target, and the way there where it is not qrexec.
fn socket_name(pair: &Pair) -> String {
    let mut name = String::new();
    // A target has no slash, but `@` and `:` are better not in a file's name.
    pair.target.bytes().for_each(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
        other => {
            let _ = write!(name, "%{other:02x}");
        }
    });
    match &pair.via {
        Via::Qrexec(_) => {}
        Via::Local => name += ".local",
        Via::Ssh(_) => name += ".ssh",
        Via::Command(command) => {
            let _ = write!(name, ".{:016x}", fingerprint(command.as_os_str().as_bytes()));
        }
    }
    name + ".sock"
}

/// FNV-1a: tells commands apart in a private folder, nothing more.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Where a daemon's messages go.
fn log_file(socket: &Path) -> PathBuf {
    socket.with_extension("log")
}

/// Starts a daemon and waits until it takes connections, or has found another that does.
fn start(pair: &Pair, owner: Owner) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Other, format!("cannot start the channel daemon: {error}"))
    };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = match scope(owner).or_else(|| person(owner)) {
        Some(mut by) => {
            by.arg(&program);
            by
        }
        None => Command::new(&program),
    };
    let (kind, path) = match &pair.via {
        Via::Qrexec(path) => ("qrexec:", path.as_path()),
        Via::Local => ("local", Path::new("")),
        Via::Command(path) => ("command:", path.as_path()),
        Via::Ssh(path) => ("ssh:", path.as_path()),
    };
    let mut via = OsString::from(kind);
    via.push(path);
    command.arg("--daemon").arg(&pair.target).arg(via).current_dir("/");
    command.env("PATH", plan::search_path());
    command.env(log::VARIABLE, log::level().name());
    if owner.uid != rustix::process::geteuid().as_raw() {
        command.env_remove("XDG_RUNTIME_DIR");
    }
    sys::keep_descriptors();
    // It says one byte on its stdout once it is ready, and closes it in any case.
    let stderr = if log::is_journal() { Stdio::inherit() } else { Stdio::null() };
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn();
    let mut child = spawned.map_err(failed)?;
    let mut ready = [0];
    let told = child.stdout.take().map_or(Ok(0), |mut stdout| stdout.read(&mut ready));
    if told.is_ok_and(|count| count > 0) {
        return Ok(());
    }
    // Another one has the name: it is about to be ready, or about to go.
    let _ = child.wait();
    std::thread::sleep(PAUSE);
    Ok(())
}

/// A scope of systemd's, so that the daemon outlives the unit or the session that starts it; nothing
/// where systemd does not run or cannot be reached.
fn scope(owner: Owner) -> Option<Command> {
    let own = rustix::process::geteuid().as_raw();
    if !Path::new("/run/systemd/system").is_dir() || owner.uid != own {
        return None;
    }
    let mut scope = Command::new("systemd-run");
    scope.args(["--scope", "--quiet", "--collect", "--description=qubes-shared-folders"]);
    if own != 0 {
        scope.arg("--user");
    }
    // Whether it can be reached is asked with a scope that does nothing.
    let mut trial = Command::new("systemd-run");
    trial.args(scope.get_args()).arg("true");
    let trial = trial.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    trial.is_ok_and(|status| status.success()).then_some(scope)
}

/// For root: a command that runs another as the person who invoked sudo, with all of that person's
/// groups. In a qube only the group `qubes` may make calls.
fn person(owner: Owner) -> Option<Command> {
    if owner.uid == rustix::process::geteuid().as_raw() {
        return None;
    }
    let groups = Command::new("id").args(["-G", "--", &owner.uid.to_string()]).output().ok();
    let groups = groups.filter(|output| output.status.success());
    let groups = groups.and_then(|output| String::from_utf8(output.stdout).ok());
    let groups = groups.map_or(owner.gid.to_string(), |groups| groups.trim().replace(' ', ","));
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={}", owner.uid)).arg(format!("--regid={}", owner.gid));
    command.arg(format!("--groups={groups}")).arg("--");
    Some(command)
}

/// The daemon's entry: `TARGET VIA`, as it is started. Runs until its last mount has gone.
pub fn daemon(words: &[OsString]) -> Result<(), Failure> {
    let failed = |why: &str| Failure::new(Exit::Usage, format!("--daemon {why}"));
    let [target, via] = words else { return Err(failed("takes a target and a way there")) };
    let target = target.to_str().and_then(|target| target.parse::<policy::Target>().ok());
    let target = target.ok_or_else(|| failed("takes a qube's name"))?;
    let path = |bytes| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
    let via = match via.as_bytes() {
        b"local" => Via::Local,
        other => {
            let after = |prefix: &str| other.strip_prefix(prefix.as_bytes()).map(path);
            let qrexec = after("qrexec:").map(Via::Qrexec);
            let others = || after("command:").map(Via::Command).or(after("ssh:").map(Via::Ssh));
            qrexec
                .or_else(others)
                .ok_or_else(|| failed("takes qrexec:PATH, local, ssh:PATH or command:PATH"))?
        }
    };
    let pair = Pair { target: target.as_str().to_owned(), via };
    let folder = runtime_folder("client").map_err(|error| Failure::new(Exit::Other, error))?;
    let path = folder.join(socket_name(&pair));
    let log = match log::is_journal() {
        true => "journal".to_owned(),
        false => {
            let log = log_file(&path);
            // The log of the last one is worth more than that of all.
            if let Ok(log) = std::fs::File::create(&log) {
                let _ = rustix::stdio::dup2_stderr(&log);
            }
            log.display().to_string()
        }
    };
    log::set(log::Level::of(0), true);
    let started = || {
        let _ = rustix::io::write(rustix::stdio::stdout(), b"!");
        // Whoever started it reads to the end; nothing else is ever said there.
        if let Ok(null) = std::fs::File::open("/dev/null") {
            let _ = rustix::stdio::dup2_stdout(&null);
        }
    };
    super::run(pair, &path, log, started)
        .map_err(|error| Failure::new(Exit::Other, format!("the channel daemon failed: {error}")))
}
