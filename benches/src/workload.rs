//! What Linux's v9fs asks for a system call, one request after another, as it was seen on 6.12 with
//! `cache=none` and `noxattr`.
//!
//! It keeps no names: each path is walked from the root, a component at a time, with attributes asked
//! for at each; a folder that a program has open stays known while it is. The counts that this gives
//! are the kernel's to within some per cent:
//!
//! | system calls | requests |
//! | --- | --- |
//! | stat of a/b/c/f | (walk, getattr) × 4, getattr, clunk × 4: 13 |
//! | `ls -l` of 1,000 names | four a name, and 20 around them: 4,020 |
//! | `git status` of 100 files, second time | 1,378 |
//! | create, write, close | 18 |
//!
//! Leaves out the kernel's other cache modes, and readers and writers of large files
//! ([`Client::read_through`]).

use transport::id::Fid;
use transport::ninep::Tmessage;
use transport::ninep::message::{SetAttributes, open, setattr};

use crate::client9p::{Client, ClientError, Result};

/// The kernel's side of a session.
#[derive(Debug)]
pub struct Kernel<'a> {
    client: &'a mut Client,
}

impl<'a> Kernel<'a> {
    /// What the kernel asks goes to `client`.
    pub fn new(client: &'a mut Client) -> Kernel<'a> {
        Kernel { client }
    }

    /// `ls -l` of `path`; gives how many names there were.
    ///
    /// # Errors
    /// The server's.
    pub fn list(&mut self, path: &str) -> Result<usize> {
        self.stat(path)?;
        let names = self.names(path, |kernel, folder, names| {
            for name in names {
                kernel.stat_in(folder, name)?;
            }
            Ok(names.len())
        })?;
        Ok(names)
    }

    /// `find` with a stat of everything below `path`, `depth` levels of folders deep; gives how many
    /// names there were. Which names are folders it tells by their having no `.` in them.
    ///
    /// # Errors
    /// The server's.
    pub fn find(&mut self, path: &str, depth: usize) -> Result<usize> {
        let names = self.names(path, |kernel, folder, names| {
            for name in names {
                kernel.stat_in(folder, name)?;
            }
            Ok(names.to_vec())
        })?;
        let mut count = names.len();
        for name in names.iter().filter(|name| depth > 0 && !name.contains(&b'.')) {
            count += self.find(&format!("{path}/{}", String::from_utf8_lossy(name)), depth - 1)?;
        }
        Ok(count)
    }

    /// `git status` of a work tree where nothing has changed: an lstat of every file of the index by
    /// its whole path, each folder listed, and a `.gitignore` looked for in each.
    ///
    /// # Errors
    /// The server's.
    pub fn git_status(&mut self, files: &[String], folders: &[String]) -> Result<()> {
        for file in files {
            self.stat(file)?;
        }
        for folder in folders {
            self.names(folder, |_, _, names| Ok(names.len()))?;
            match self.stat(&format!("{folder}/.gitignore")) {
                Ok(()) | Err(ClientError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What tar does for a small file: creates it, writes it, and sets its mode and times by the
    /// open file.
    ///
    /// # Errors
    /// The server's.
    pub fn unpack(&mut self, folder: &str, name: &str, data: &[u8]) -> Result<()> {
        self.at(folder, |kernel, dir| {
            let name = name.as_bytes();
            // Is it there? Then it is made, and walked to for the kernel's own node.
            match kernel.client.walk(dir, &[name]) {
                Ok(fid) => kernel.client.clunk(fid)?,
                Err(ClientError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
            let file = kernel.client.walk(dir, &[])?;
            kernel.client.create(file, name, open::RDWR | open::CREATE)?;
            let node = kernel.client.walk(dir, &[name])?;
            kernel.client.getattr(node)?;
            kernel.client.write(file, 0, data)?;
            let mode = SetAttributes { valid: setattr::MODE, mode: 0o644, ..Default::default() };
            let times = setattr::ATIME | setattr::MTIME;
            let times = SetAttributes { valid: times, ..Default::default() };
            for set in [mode, times] {
                kernel.client.call(&Tmessage::Tsetattr { fid: file, set })?;
                kernel.client.getattr(file)?;
            }
            kernel.client.clunk(file)?;
            kernel.client.clunk(node)
        })
    }

    /// stat(2) of a path.
    ///
    /// # Errors
    /// The server's.
    pub fn stat(&mut self, path: &str) -> Result<()> {
        self.at(path, |kernel, fid| kernel.client.getattr(fid).map(drop))
    }

    /// stat(2) of a name in a folder that is open.
    fn stat_in(&mut self, folder: Fid, name: &[u8]) -> Result<()> {
        let node = self.client.walk(folder, &[name])?;
        self.client.getattr(node)?;
        self.client.getattr(node)?;
        self.client.clunk(node)
    }

    /// Opens a folder, reads its names, gives them to `with`, and closes it.
    fn names<T>(
        &mut self,
        path: &str,
        mut with: impl FnMut(&mut Self, Fid, &[Vec<u8>]) -> Result<T>,
    ) -> Result<T> {
        self.at(path, |kernel, folder| {
            let opened = kernel.client.walk(folder, &[])?;
            kernel.client.open(opened, open::DIRECTORY)?;
            kernel.client.getattr(folder)?;
            let names = kernel.client.names(opened)?;
            let done = with(kernel, folder, &names);
            kernel.client.clunk(opened)?;
            done
        })
    }

    /// Walks to `path` and gives its fid to `with`; then every fid on the way is forgotten.
    fn at<T>(&mut self, path: &str, with: impl FnOnce(&mut Self, Fid) -> Result<T>) -> Result<T> {
        let mut fids = vec![Client::ROOT];
        let mut walked = Ok(Client::ROOT);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            walked = self.step(fids[fids.len() - 1], name.as_bytes());
            match walked {
                Ok(fid) => fids.push(fid),
                Err(_) => break,
            }
        }
        let done = walked.and_then(|fid| with(self, fid));
        for fid in fids.into_iter().skip(1).rev() {
            self.client.clunk(fid)?;
        }
        done
    }

    fn step(&mut self, from: Fid, name: &[u8]) -> Result<Fid> {
        let fid = self.client.walk(from, &[name])?;
        self.client.getattr(fid)?;
        Ok(fid)
    }
}
