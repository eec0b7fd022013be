//! Folders to serve, made anew and gone with their owner.
//!
//! Nothing here is forced to the disk: what is removed before the kernel has written it back never gets
//! there, so that a thousand small files cost neither the disk nor, where a file system discards what
//! it frees, minutes.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

/// A folder on this machine's disk.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// A new one below `place`, which is made where it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(place: &Path) -> Result<Scratch> {
        fs::create_dir_all(place)?;
        Ok(Scratch(tempfile::Builder::new().prefix("scratch-").tempdir_in(place)?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A folder in it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        fs::create_dir_all(self.at(name))?;
        Ok(self.at(name))
    }

    /// A file of `bytes` that no file system stores as holes.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let mut file = File::create(self.at(name))?;
        let block: Vec<u8> =
            (0..1 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut left = bytes;
        while left > 0 {
            let count = left.min(block.len() as u64);
            file.write_all(&block[..count as usize])?;
            left -= count;
        }
        Ok(self.at(name))
    }

    /// A folder of `count` small files; with an extended attribute each where wanted.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn names(&self, name: &str, count: usize, xattr: bool) -> Result<PathBuf> {
        let folder = self.folder(name)?;
        for number in 0..count {
            let file = File::create(folder.join(format!("file-{number:05}.txt")))?;
            if xattr {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::fsetxattr(&file, "user.note", b"a remark of some length", flags)?;
            }
        }
        Ok(folder)
    }

    /// A tree: `folders` folders of `files` files of 2 KiB each, two levels below `name`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn tree(&self, name: &str, folders: usize, files: usize) -> Result<PathBuf> {
        for number in 0..folders {
            let folder = self.folder(&format!("{name}/part-{}/sub-{number:03}", number % 10))?;
            for file in 0..files {
                fs::write(folder.join(format!("file-{file:03}.c")), [b'x'; 2048])?;
            }
        }
        Ok(self.at(name))
    }

    /// A git repository with one commit of a [`tree`](Self::tree).
    ///
    /// # Errors
    /// git is not there, or fails.
    pub fn repository(&self, name: &str, folders: usize, files: usize) -> Result<PathBuf> {
        let folder = self.tree(name, folders, files)?;
        let settings = ["user.name=bench", "user.email=bench@localhost", "core.fsync=none"];
        let settings = settings.iter().flat_map(|setting| ["-c", setting]);
        for words in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "all"]] {
            let mut git = Command::new("git");
            super::run(git.current_dir(&folder).args(settings.clone()).args(words))?;
        }
        Ok(folder)
    }

    /// A tar of a [`tree`](Self::tree) of small files.
    ///
    /// # Errors
    /// tar is not there, or fails.
    pub fn archive(&self, name: &str, folders: usize, files: usize) -> Result<PathBuf> {
        let tree = self.tree("packed", folders, files)?;
        super::run(Command::new("tar").arg("-cf").arg(self.at(name)).arg("-C").arg(tree).arg("."))?;
        fs::remove_dir_all(self.at("packed"))?;
        Ok(self.at(name))
    }
}
