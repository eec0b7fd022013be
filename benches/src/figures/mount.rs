//! Folders mounted with this machine's FUSE and used by ordinary programs: ours against sshfs on the
//! same channel, and against the disk itself.
//!
//! Cold is a folder that the mount has not been asked about yet: each sample gets one of its own, so
//! that no cache has to be emptied. The server's side has it in its page cache in any case.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Setting, shape};
use crate::channel::DEFAULT_RING;
use crate::harness::pair::Pair;
use crate::harness::peer::{Sshfs, sshfs_can_mount};
use crate::harness::run;
use crate::harness::scratch::Scratch;
use crate::record::{Line, Target, interleaved};

/// Names in the folder that is listed.
const NAMES: usize = 1_000;
/// Bytes of a read(2) or write(2).
const BLOCK: usize = 128 << 10;

/// What an ordinary program does in a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Native {
    /// Reads a large file from its start.
    Read,
    /// Writes one, to fsync.
    Write,
    /// `ls -l`, first time; files with an extended attribute each, or without.
    ListCold(bool),
    /// `ls -l`, once more.
    ListWarm,
    /// `find` with a stat of everything.
    Find,
    /// `git status`.
    GitStatus,
    /// `tar -x` of small files.
    Unpack,
}

impl Native {
    /// All of them.
    pub const ALL: [Native; 8] = [
        Native::Read,
        Native::Write,
        Native::ListCold(true),
        Native::ListCold(false),
        Native::ListWarm,
        Native::Find,
        Native::GitStatus,
        Native::Unpack,
    ];

    /// As names of benches have it.
    pub fn name(self) -> &'static str {
        match self {
            Native::Read => "read",
            Native::Write => "write",
            Native::ListCold(true) => "ls-l-cold-xattr",
            Native::ListCold(false) => "ls-l-cold",
            Native::ListWarm => "ls-l-warm",
            Native::Find => "find",
            Native::GitStatus => "git-status",
            Native::Unpack => "unpack",
        }
    }

    /// What the design asks of it, against sshfs.
    fn target(self) -> Option<Target> {
        match self {
            Native::Read => Some(Target::AtLeast(1.8)),
            Native::ListCold(true) => Some(Target::AtLeast(2.0)),
            Native::ListCold(false) => Some(Target::AtLeast(3.0)),
            _ => None,
        }
    }

    /// Makes what it needs in the served folder, named for the `number`th run.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn prepare(self, scratch: &Scratch, number: usize, setting: &Setting) -> Result<String> {
        let files = setting.effort.files;
        // Several requests for each of these.
        let few = files.div_ceil(2 * 50);
        let name = format!("served/{}-{number}", self.name());
        match self {
            // The one file of all runs: a new one each time would be measuring how fast this machine's
            // host gives it memory that it has never used.
            Native::Read => {
                if !scratch.at("served/large").exists() {
                    scratch.file("served/large", setting.effort.bytes)?;
                }
                return Ok("large".into());
            }
            // Over what is there, for the same reason.
            Native::Write => {
                if !scratch.at("served/written").exists() {
                    scratch.file("served/written", setting.effort.bytes)?;
                }
                return Ok("written".into());
            }
            Native::ListCold(xattr) => {
                scratch.names(&name, NAMES.min(files.max(1)), xattr).map(drop)?;
            }
            // The one folder of all runs.
            Native::ListWarm => {
                if !scratch.at("served/warm").exists() {
                    scratch.names("served/warm", NAMES.min(files.max(1)), false)?;
                }
                return Ok("warm".into());
            }
            Native::Find => scratch.tree(&name, files.div_ceil(50), 50).map(drop)?,
            Native::GitStatus => scratch.repository(&name, few, 50).map(drop)?,
            Native::Unpack => {
                if !scratch.at("small.tar").exists() {
                    scratch.archive("small.tar", few, 50)?;
                }
                scratch.folder(&name)?;
            }
        }
        Ok(format!("{}-{number}", self.name()))
    }

    /// Does it with what is named `name` below `root`; gives the time.
    ///
    /// # Errors
    /// The program fails.
    pub fn run(self, root: &Path, name: &str, scratch: &Scratch, bytes: u64) -> Result<Duration> {
        let path = root.join(name);
        let start = Instant::now();
        match self {
            Native::Read => {
                let mut file = File::open(path)?;
                let mut block = vec![0; BLOCK];
                while file.read(&mut block)? > 0 {}
            }
            Native::Write => {
                let mut file = File::options().write(true).open(path)?;
                let block = vec![7; BLOCK];
                for _ in 0..bytes / BLOCK as u64 {
                    file.write_all(&block)?;
                }
                file.sync_all()?;
            }
            Native::ListCold(_) | Native::ListWarm => run(Command::new("ls").arg("-l").arg(path))?,
            Native::Find => {
                run(Command::new("find").arg(path).args(["-newer", "/", "-size", "+9"]))?
            }
            // As a person's: it would write its index anew where that helps.
            Native::GitStatus => {
                let mut git = Command::new("git");
                run(git.args(["-c", "safe.directory=*", "-C"]).arg(path).arg("status"))?;
            }
            Native::Unpack => {
                let archive = scratch.at("small.tar");
                run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(path))?;
            }
        }
        Ok(start.elapsed())
    }

    /// Lets it run once below `root`, as the `number`th, on files that are made for it in `disk`, which
    /// is served and a folder of `scratch`.
    ///
    /// # Errors
    /// The files cannot be made, or the program fails.
    pub fn once(
        self,
        root: &Path,
        disk: &Path,
        scratch: &Scratch,
        number: usize,
        setting: &Setting,
    ) -> Result<Duration> {
        let name = self.prepare(scratch, number, setting)?;
        if self == Native::Read && root != disk {
            evict(&root.join(&name))?;
        }
        let time = self.run(root, &name, scratch, setting.effort.bytes)?;
        match self {
            // The one folder of all runs, and the two files.
            Native::ListWarm | Native::Read | Native::Write => {}
            _ => std::fs::remove_dir_all(disk.join(&name))?,
        }
        Ok(time)
    }
}

/// A folder of this machine, and the same through both mounts.
pub struct Mounts {
    // Dropped in this order: what is removed at the end must not be looked at through a mount.
    _pair: Pair,
    _sshfs: Sshfs,
    /// The files.
    pub scratch: Scratch,
    /// The served folder itself.
    pub disk: PathBuf,
    /// Where ours is mounted; nothing where it cannot be, and why.
    pub ours: Result<PathBuf, String>,
    /// Where sshfs is.
    pub sshfs: PathBuf,
}

impl Mounts {
    /// Mounts them.
    ///
    /// # Errors
    /// FUSE or sshfs is not there.
    pub fn new(setting: &Setting) -> Result<Mounts> {
        let programs = &setting.programs;
        crate::harness::fuse_of_this_machine().map_err(anyhow::Error::msg)?;
        let scratch = Scratch::new(&setting.place)?;
        let disk = scratch.folder("served")?;
        let at = scratch.folder("mounts/ours")?;
        let sshfs = scratch.folder("mounts/sshfs")?;
        let shape = shape(DEFAULT_RING, Duration::ZERO);
        let mut pair = Pair::new(programs, &shape)?;
        let ours = match programs.fuse() {
            Ok(()) => pair.mount_fuse(&disk, &at, &[]).map(|()| at).map_err(|e| format!("{e:#}")),
            Err(why) => Err(why),
        };
        let mounted = Sshfs::mount(programs, &shape, &disk, &sshfs)?;
        Ok(Mounts { _pair: pair, _sshfs: mounted, scratch, disk, ours, sshfs })
    }
}

impl Mounts {
    /// Lets `native` run once below `root`, as the `number`th, on files of its own.
    ///
    /// # Errors
    /// The files cannot be made, or the program fails.
    pub fn once(
        &self,
        native: Native,
        root: &Path,
        number: usize,
        setting: &Setting,
    ) -> Result<Duration> {
        native.once(root, &self.disk, &self.scratch, number, setting)
    }
}

/// Takes a file out of a mount's page cache; the server's side keeps it in its own.
fn evict(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

/// Everything, with sshfs and the disk beside it.
pub fn all(setting: &Setting) -> Result<Vec<Line>> {
    let missing = |why: &str| {
        let line = |native: Native| {
            let name = native.name();
            let line = Line::missing(&what(native), &format!("mount/{name}/ours"), why);
            native.target().map_or(line.clone(), |target| line.target(target))
        };
        Native::ALL.map(line).into()
    };
    if let Err(why) = sshfs_can_mount() {
        return Ok(missing(&why));
    }
    let mounts = Mounts::new(setting)?;
    let mut lines = Vec::new();
    for native in Native::ALL {
        lines.extend(one(setting, native, &mounts)?);
    }
    Ok(lines)
}

fn what(native: Native) -> String {
    match native {
        Native::Read => "FUSE mount: sequential read".into(),
        Native::Write => "FUSE mount: sequential write and fsync".into(),
        Native::ListCold(true) => "FUSE mount: ls -l of 1,000 names with xattrs, cold".into(),
        Native::ListCold(false) => "FUSE mount: ls -l of 1,000 names, cold".into(),
        Native::ListWarm => "FUSE mount: ls -l of 1,000 names, warm".into(),
        Native::Find => "FUSE mount: find with a stat of everything, cold".into(),
        Native::GitStatus => "FUSE mount: git status, cold".into(),
        Native::Unpack => "FUSE mount: unpacking small files".into(),
    }
}

fn one(setting: &Setting, native: Native, mounts: &Mounts) -> Result<Vec<Line>> {
    let number = std::cell::Cell::new(0);
    let measured = |root: &Path| {
        let time = mounts.once(native, root, number.replace(number.get() + 1), setting)?;
        Ok(time.as_secs_f64() * 1e3)
    };
    let (mut disk, mut sshfs) = (|| measured(&mounts.disk), || measured(&mounts.sshfs));
    let rounds = setting.effort.rounds;
    let name = native.name();
    let line = |samples: &[f64], who: &str| {
        Line::new(&what(native), &format!("mount/{name}/{who}"), "ms", samples)
    };
    let with_target = |line: Line| match native.target() {
        Some(target) => line.target(target),
        None => line,
    };
    match &mounts.ours {
        Ok(root) => {
            let mut ours = || measured(root);
            let samples = interleaved(rounds, &mut [&mut disk, &mut sshfs, &mut ours])?;
            let [disk, sshfs, ours] = &samples[..] else { unreachable!("as many as asked") };
            let against = line(ours, "ours").times_less("sshfs", ours, sshfs);
            Ok(vec![
                with_target(against),
                line(ours, "ours-disk").times_less("the disk itself", ours, disk),
            ])
        }
        Err(why) => {
            let samples = interleaved(rounds, &mut [&mut disk, &mut sshfs])?;
            let [disk, sshfs] = &samples[..] else { unreachable!("as many as asked") };
            let ours = Line::missing(&what(native), &format!("mount/{name}/ours"), why);
            Ok(vec![
                with_target(ours),
                line(sshfs, "sshfs").times_less("the disk itself", sshfs, disk),
            ])
        }
    }
}
