//! Where this qube's export rules are, and what they say of a call.
//!
//! The first of two places that has a file is read, anew for each call. Rules that somebody else could
//! have written are none: the file must belong to root or to the service's user, and nobody else may
//! write to it. One that is there and cannot be used refuses everything.

use std::fmt;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use policy::decide::{Decision, Refusal, decide};
use policy::rule::{self, Access, Mistake, Rule, Rules};
use policy::{Folder, FolderPath, QubeName, printable};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt;
use transport::id::Msize;

use crate::backend;

/// Where rules are looked for: what an app qube keeps, then what its template has.
pub const PLACES: [&str; 2] =
    ["/rw/config/qubes-shared-folders/exports.toml", "/etc/qubes-shared-folders/exports.toml"];
/// The most bytes of a file.
const MAX_SIZE: u64 = 1 << 20;

// The rules' bounds are 9P's on Linux.
const _: () = assert!(rule::MIN_MSIZE == Msize::MIN.bytes());
const _: () = assert!(rule::MAX_MSIZE == Msize::MAX.bytes());

/// This qube's rules.
#[derive(Debug)]
pub enum Exports {
    /// There is no file: what dom0 allowed is allowed.
    None,
    /// What the file says.
    File(PathBuf, Rules),
}

/// Why there is a file and no rules.
#[derive(Debug, thiserror::Error)]
pub enum ExportsError {
    /// It cannot be opened or read.
    #[error("{}: it cannot be read: {errno}", shown(.0), errno = .1)]
    Read(PathBuf, Errno),
    /// It is a folder, a device or the like.
    #[error("{}: it is no file", shown(.0))]
    NoFile(PathBuf),
    /// Another user owns it.
    #[error("{}: it belongs to user {owner}; it must belong to root or to the service's user", shown(.0), owner = .1)]
    Owner(PathBuf, u32),
    /// Others can write to it.
    #[error("{}: others can write to it; chmod go-w it", shown(.0))]
    Writable(PathBuf),
    /// Longer than anybody's rules.
    #[error("{}: it is longer than {MAX_SIZE} bytes", shown(.0))]
    TooLong(PathBuf),
    /// It has a mistake.
    #[error("{}:{mistake}", shown(.0), mistake = .1)]
    Mistake(PathBuf, Mistake),
}

fn shown(path: &Path) -> policy::printable::Printable<'_> {
    printable(path.as_os_str().as_bytes())
}

/// What a call is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// The folder.
    pub folder: FolderPath,
    /// Nothing in it may be changed.
    pub read_only: bool,
    /// Reading only, although writing was asked for.
    pub narrowed: bool,
    /// The largest msize.
    pub max_msize: Msize,
    /// The file server, where a rule says which.
    pub backend: Option<backend::Kind>,
    /// By what it is given, for the log.
    pub why: String,
}

/// Why a call is given nothing, for the log of this qube and for nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl Exports {
    /// Reads the rules of `place`, which must be there, or of the first of the [`PLACES`] that has some.
    pub fn read(place: Option<&Path>) -> Result<Exports, ExportsError> {
        match place {
            Some(place) => match read(place)? {
                Some(rules) => Ok(Exports::File(place.to_owned(), rules)),
                None => Err(ExportsError::Read(place.to_owned(), Errno::NOENT)),
            },
            None => {
                for place in PLACES.map(Path::new) {
                    if let Some(rules) = read(place)? {
                        return Ok(Exports::File(place.to_owned(), rules));
                    }
                }
                Ok(Exports::None)
            }
        }
    }

    /// What `client` is given of `folder`. Looks at no file.
    pub fn permit(
        &self,
        client: &QubeName,
        folder: &Folder,
        read_only: bool,
    ) -> Result<Permission, Refused> {
        let (file, rules) = match (self, folder) {
            (Exports::File(file, rules), _) => (file, rules),
            (Exports::None, Folder::Path(folder)) => {
                return Ok(Permission {
                    folder: folder.clone(),
                    read_only,
                    narrowed: false,
                    max_msize: Msize::MAX,
                    backend: None,
                    why: "dom0 allowed it, and there are no rules here".into(),
                });
            }
            (Exports::None, Folder::Alias(_)) => {
                return Err(Refused("there is no alias without rules".into()));
            }
        };
        let at = |rule: &Rule| format!("{}:{}: {rule}", shown(file), rule.line);
        let folder = rules
            .resolve(folder)
            .ok_or_else(|| Refused(format!("{} has no such alias", shown(file))))?;
        match decide(rules, client, folder) {
            Decision::Permitted { terms, by, narrowed } => {
                let may_write = terms.access == Access::ReadWrite;
                let why = match narrowed {
                    None => at(by),
                    Some(inner) => {
                        format!("{}; reading only for what is in it, {}", at(by), at(inner))
                    }
                };
                Ok(Permission {
                    folder: folder.clone(),
                    read_only: read_only || !may_write,
                    narrowed: !read_only && !may_write,
                    max_msize: terms.max_msize.and_then(Msize::new).unwrap_or(Msize::MAX),
                    backend: terms.backend.map(|backend| match backend {
                        rule::Backend::Embedded => backend::Kind::Embedded,
                        rule::Backend::Diod => backend::Kind::Diod,
                    }),
                    why,
                })
            }
            Decision::Refused(Refusal::NoRule) => {
                Err(Refused(format!("no rule in {} permits it", shown(file))))
            }
            Decision::Refused(Refusal::Denied(by)) => Err(Refused(at(by))),
            Decision::Refused(Refusal::DeniedInside(by)) => Err(Refused(format!(
                "a folder in it is denied, and whoever has {folder} has all that is in it: {}",
                at(by)
            ))),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The rules at `place`; nothing where it is not there.
fn read(place: &Path) -> Result<Option<Rules>, ExportsError> {
    let failed = |errno| ExportsError::Read(place.to_owned(), errno);
    // A FIFO must not be waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(place, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    };
    let stat = rustix::fs::fstat(file.as_fd()).map_err(failed)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(ExportsError::NoFile(place.to_owned()));
    }
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(ExportsError::Owner(place.to_owned(), stat.st_uid));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(ExportsError::Writable(place.to_owned()));
    }
    let mut text = Vec::new();
    let mut file = std::fs::File::from(file).take(MAX_SIZE + 1);
    file.read_to_end(&mut text)
        .map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    if text.len() as u64 > MAX_SIZE {
        return Err(ExportsError::TooLong(place.to_owned()));
    }
    let mistake = |mistake| ExportsError::Mistake(place.to_owned(), mistake);
    Rules::parse(&text).map(Some).map_err(mistake)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exports.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    fn error(path: &Path) -> String {
        Exports::read(Some(path)).unwrap_err().to_string()
    }

    #[test]
    fn a_file_that_others_can_write_is_no_word_of_the_owners() {
        for mode in [0o600, 0o644, 0o400] {
            let (_folder, path) = file("", mode);
            assert!(matches!(Exports::read(Some(&path)), Ok(Exports::File(..))), "{mode:o}");
        }
        for mode in [0o664, 0o646, 0o622] {
            let (_folder, path) = file("", mode);
            assert!(error(&path).ends_with("others can write to it; chmod go-w it"), "{mode:o}");
        }
        if rustix::process::geteuid().is_root() {
            let (_folder, path) = file("", 0o644);
            std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
            assert!(error(&path).contains("it belongs to user 1234"));
        }
    }

    #[test]
    fn what_is_no_file_of_rules_is_an_error_and_not_their_absence() {
        let (folder, path) = file("[[export]\n", 0o644);
        assert!(error(&path).starts_with(&format!("{}:1:10: [[export]: ", path.display())));
        assert!(error(folder.path()).ends_with("it is no file"));
        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR).unwrap();
        assert!(error(&fifo).ends_with("it is no file"));
        let long = folder.path().join("long");
        std::fs::write(&long, vec![b'#'; 1 << 21]).unwrap();
        assert!(error(&long).contains("longer than"));
    }

    #[test]
    fn the_least_of_what_is_asked_and_permitted_is_given() {
        let rules = "[aliases]\nm = \"/srv/m\"\n\
                     [[export]]\nclient = \"work\"\nfolder = \"m\"\naccess = \"ro\"\n\
                     max-msize = \"64K\"\nbackend = \"diod\"\n\
                     [[export]]\nclient = \"work\"\nfolder = \"/rw\"\naccess = \"rw\"\n";
        let (_folder, path) = file(rules, 0o644);
        let exports = Exports::read(Some(&path)).unwrap();
        let permit = |folder: &str, read_only| {
            let folder = Folder::parse(folder.as_ref()).unwrap();
            exports.permit(&"work".parse().unwrap(), &folder, read_only)
        };
        for (folder, read_only, given) in [
            ("m", false, (true, true)),
            ("m", true, (true, false)),
            ("/srv/m/in", false, (true, true)),
            ("/rw", false, (false, false)),
            ("/rw", true, (true, false)),
        ] {
            let permission = permit(folder, read_only).unwrap();
            assert_eq!((permission.read_only, permission.narrowed), given, "{folder} {read_only}");
        }
        let permission = permit("m", true).unwrap();
        assert_eq!(permission.folder.as_bytes(), b"/srv/m");
        assert_eq!(permission.max_msize.bytes(), 65536);
        assert_eq!(permission.backend, Some(backend::Kind::Diod));
        assert!(permission.why.contains("exports.toml:3: client = \"work\""), "{}", permission.why);
        let why = permit("/etc", true).unwrap_err().0;
        assert!(why.starts_with("no rule in "), "{why}");
        let why = permit("other", true).unwrap_err().0;
        assert!(why.ends_with("has no such alias"), "{why}");
        let none = Exports::None;
        let client = "work".parse().unwrap();
        let path = Folder::parse("/any".as_ref()).unwrap();
        assert!(!none.permit(&client, &path, false).unwrap().read_only);
        let alias = Folder::parse("any".as_ref()).unwrap();
        assert!(none.permit(&client, &alias, true).is_err());
    }
}
