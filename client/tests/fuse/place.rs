//! A folder that is shared, mounts of it, and what is started beside them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// More than anything here takes; only a failure waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than the kernel believes what it was told (`--coherence`).
pub const LIFETIME: Duration = Duration::from_millis(1300);

/// Calls `look` until it gives something.
#[track_caller]
pub fn within<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A folder with everything of one test in it.
pub struct Place {
    folder: tempfile::TempDir,
    qube: String,
}

impl Place {
    /// A place with an empty folder to share.
    pub fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().unwrap();
        // Other users are to reach the mounts, and nobody the sockets.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let qube = format!("fuse-{}-{number}", std::process::id());
        let place = Place { folder, qube };
        for (name, mode) in [("there", 0o755), ("run", 0o700)] {
            fs::create_dir(place.at(name)).unwrap();
            fs::set_permissions(place.at(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        place
    }

    /// A path in this place.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in the folder that is shared.
    pub fn there(&self, name: impl AsRef<Path>) -> PathBuf {
        self.at("there").join(name)
    }

    /// The name that the server goes by; no other test's has it.
    pub fn qube(&self) -> &str {
        &self.qube
    }

    /// `qvm-mount-folder` as it is run here, without arguments.
    pub fn command(&self) -> Command {
        self.command_by(&[])
    }

    /// The same by another program, whose words come first: a shell that runs tests in the background has its
    /// children ignore SIGINT, which `env` undoes.
    pub fn command_by(&self, words: &[&str]) -> Command {
        let words = [words, &[env!("CARGO_BIN_EXE_qvm-mount-folder")]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.env("XDG_RUNTIME_DIR", self.at("run"));
        for name in ["SUDO_UID", "SUDO_GID"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs it for a mount of the folder at `here`, which is made.
    pub fn try_mount(&self, here: &str, options: &[&str]) -> Output {
        let here = self.at(here);
        fs::create_dir_all(&here).unwrap();
        let mut command = self.command();
        command.arg(&self.qube).arg(self.at("there")).arg(here);
        command.args(["--via", "local", "--frontend", "fuse"]).args(options);
        command.output().unwrap()
    }

    /// A mount of the folder at `here`.
    #[track_caller]
    pub fn mount(&self, here: &str, options: &[&str]) -> Mount {
        let output = self.try_mount(here, options);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Mount { here: self.at(here) }
    }

    /// The daemon of this place, if it runs.
    pub fn daemon(&self) -> Option<Pid> {
        processes().into_iter().find(|&process| {
            let line = fs::read(format!("/proc/{}/cmdline", process.as_raw_nonzero()));
            let line = line.unwrap_or_default();
            let mut words = line.split(|&byte| byte == 0);
            words.clone().any(|word| word == b"--daemon")
                && words.any(|word| word == self.qube.as_bytes())
        })
    }

    /// The processes of the server end, while the daemon runs.
    pub fn servers(&self) -> Vec<Pid> {
        let mut found: Vec<Pid> = self.daemon().into_iter().collect();
        let mut at = 0;
        while let Some(&parent) = found.get(at) {
            found.extend(
                processes().into_iter().filter(|&process| parent_of(process) == Some(parent)),
            );
            at += 1;
        }
        found.split_off(found.len().min(1))
    }

    /// Every process of this place has gone.
    #[track_caller]
    pub fn ends(&self) {
        within(|| self.daemon().is_none().then_some(()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Where a test failed, what it started is not to stay.
        for process in self.servers().into_iter().chain(self.daemon()) {
            let _ = kill_process(process, Signal::KILL);
        }
    }
}

fn processes() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn parent_of(process: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Pid::from_raw(line.trim().parse().ok()?)
}

/// A mount; taken away in the end.
pub struct Mount {
    here: PathBuf,
}

impl Mount {
    /// A path in it.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.here.join(name)
    }

    /// Whether the kernel has it.
    pub fn is_there(&self) -> bool {
        let mounts = fs::read("/proc/self/mounts").unwrap();
        let mut lines = mounts.split(|&byte| byte == b'\n');
        lines.any(|line| {
            line.split(|&byte| byte == b' ').nth(1) == Some(self.here.as_os_str().as_bytes())
        })
    }

    /// Takes it away, as a person would.
    #[track_caller]
    pub fn umount(&self) {
        // Something may still be looking at it, such as a process that is about to end.
        within(|| umount(&self.here, false).then_some(()));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_there() {
            umount(&self.here, true);
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn umount(here: &Path, lazily: bool) -> bool {
    let mut command = if is_root() {
        Command::new("umount")
    } else {
        let mut command = Command::new("fusermount3");
        command.arg("-u");
        command
    };
    if lazily {
        command.arg(if is_root() { "-l" } else { "-z" });
    }
    command.arg(here).stderr(Stdio::null()).status().unwrap().success()
}

/// A command as root.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", "--", program]);
    command
}

/// A command as an ordinary user: this one, where root does not run the tests.
pub fn as_nobody(program: impl AsRef<OsStr>) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
    command
}

/// Runs a line of shell, which has to succeed, and gives what it prints.
#[track_caller]
pub fn shell(line: &str, folder: &Path) -> String {
    let output = Command::new("sh").args(["-euc", line]).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a Python program, which has to succeed, and gives what it prints.
#[track_caller]
pub fn python(program: &str, words: &[&Path]) -> String {
    let output = Command::new("/usr/bin/python3").arg("-c").arg(program).args(words).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A Python program that says a line when it is ready, and goes on.
pub fn started(program: &str, words: &[&Path]) -> Started {
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-uc").arg(program).args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap());
    Started { child, lines }
}

/// A program under way.
pub struct Started {
    /// Its process.
    pub child: Child,
    lines: std::io::BufReader<std::process::ChildStdout>,
}

impl Started {
    /// The next line that it prints; empty at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.lines, &mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> std::process::ExitStatus {
        within(|| self.child.try_wait().unwrap())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
