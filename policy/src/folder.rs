//! Which folder: an absolute path, or an alias; and its form as a qrexec argument.
//!
//! dom0 shows the argument to a person and matches it against policy, and the server opens what it
//! says, so there is exactly one argument per folder and one folder per argument. qrexec keeps
//! letters, digits and `_.+-` and turns any other byte into `_`, hence the form: `/` is `-`,
//! letters, digits and `.` stand for themselves, every other byte is `_hh` in lower case. A path's
//! argument begins with `-` and an alias does not, so an alias stands for itself, `-` and `_`
//! included. Whether the folder exists is not asked here.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use crate::printable::printable;

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Folder {
    /// A folder by its path in the server qube.
    Path(FolderPath),
    /// A folder by a name that the server qube's `exports.toml` gives it.
    Alias(Alias),
}

/// An absolute path in canonical spelling: begins with `/`, has no empty, `.` or `..` component, no
/// NUL and no trailing slash, except that `/` itself is one. Bytes, not text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FolderPath(Vec<u8>);

/// A short name for a folder: a letter or digit, then letters, digits, `.`, `-` and `_`, at most
/// [`Alias::MAX_LENGTH`] characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Alias(String);

/// Why a text on a command line or in a file is no folder.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FolderError {
    /// No characters at all.
    #[error("the folder's name is empty")]
    Empty,
    /// A path that does not begin with `/`. It could only be relative to a folder of the wrong
    /// qube.
    #[error("{} is a relative path; the folder is in the other qube, so its path begins with '/'",
            printable(.0))]
    Relative(Vec<u8>),
    /// A path with `..`, whose meaning hangs on symbolic links in the other qube.
    #[error("{} has '..' in it; write the path of the folder that is meant", printable(.0))]
    Parent(Vec<u8>),
    /// A NUL byte, which no path can have.
    #[error("the folder's name has a NUL byte in it")]
    Nul,
    /// Neither a path nor a possible alias.
    #[error("{} is no folder: a path begins with '/', an alias has only letters, digits, '.', '-' \
             and '_', begins with a letter or digit and has at most {max} characters",
            printable(.0), max = Alias::MAX_LENGTH)]
    NoAlias(Vec<u8>),
}

/// Why a qrexec argument names no folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ArgumentError {
    /// No argument was given.
    #[error("no folder is named in the call's argument")]
    Empty,
    /// Not a path's argument, and not an alias either.
    #[error("the call's argument is neither a path (which begins with '-') nor an alias")]
    NoAlias,
    /// A byte that is never written as itself.
    #[error("byte {0:#04x} in the call's argument is not written as '_' and two digits")]
    Unescaped(u8),
    /// `_` without two lower-case hexadecimal digits after it.
    #[error("'_' in the call's argument is not followed by two lower-case hexadecimal digits")]
    BadEscape,
    /// `_hh` for a byte that has a shorter form, or for NUL. One folder, one argument.
    #[error("byte {0:#04x} is never written as '_' and two digits in a call's argument")]
    NeedlessEscape(u8),
    /// An empty component, as of `//` or a trailing slash.
    #[error("the path in the call's argument has an empty component")]
    EmptyComponent,
    /// `.` or `..` as a component.
    #[error("the path in the call's argument has '.' or '..' as a component")]
    DotComponent,
}

impl Folder {
    /// The folder that a person wrote. A path is brought into canonical spelling: `//`, `/./` and
    /// trailing slashes go; `..` is refused, as it cannot be resolved from here.
    pub fn parse(text: &OsStr) -> Result<Folder, FolderError> {
        let bytes = text.as_bytes();
        if bytes.first() == Some(&b'/') {
            return FolderPath::parse(text).map(Folder::Path);
        }
        if bytes.is_empty() {
            return Err(FolderError::Empty);
        }
        if bytes.contains(&b'/') || matches!(bytes, b"." | b"..") {
            return Err(FolderError::Relative(bytes.to_vec()));
        }
        let alias = text.to_str().and_then(|text| text.parse().ok());
        alias.map(Folder::Alias).ok_or_else(|| FolderError::NoAlias(bytes.to_vec()))
    }

    /// The argument that names this folder in a qrexec call: printable ASCII, never empty.
    pub fn to_argument(&self) -> String {
        match self {
            Folder::Path(path) => path.to_argument(),
            Folder::Alias(alias) => alias.0.clone(),
        }
    }

    /// The folder that `argument` names. The argument comes from the other qube: whatever
    /// [`Folder::to_argument`] would not have written is refused.
    pub fn from_argument(argument: &[u8]) -> Result<Folder, ArgumentError> {
        match argument.first() {
            None => Err(ArgumentError::Empty),
            Some(b'-') => FolderPath::from_argument(argument).map(Folder::Path),
            Some(_) => {
                let alias = std::str::from_utf8(argument).ok().and_then(|text| text.parse().ok());
                alias.map(Folder::Alias).ok_or(ArgumentError::NoAlias)
            }
        }
    }

    /// The path or alias as bytes, unescaped: for a mount's source, never for a terminal.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Folder::Path(path) => path.as_bytes(),
            Folder::Alias(alias) => alias.0.as_bytes(),
        }
    }
}

/// Safe to show on a terminal: what is not printable is escaped.
impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printable(self.as_bytes()).fmt(f)
    }
}

impl FolderPath {
    /// The absolute path that a person wrote, brought into canonical spelling as
    /// [`Folder::parse`] says.
    pub fn parse(text: &OsStr) -> Result<FolderPath, FolderError> {
        let bytes = text.as_bytes();
        let Some(rest) = bytes.strip_prefix(b"/") else {
            return Err(match bytes {
                [] => FolderError::Empty,
                _ => FolderError::Relative(bytes.to_vec()),
            });
        };
        if bytes.contains(&0) {
            return Err(FolderError::Nul);
        }
        let mut path = Vec::with_capacity(bytes.len());
        for component in rest.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(FolderError::Parent(bytes.to_vec())),
                _ => {
                    path.push(b'/');
                    path.extend_from_slice(component);
                }
            }
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(FolderPath(path))
    }

    /// The path as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for system calls.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The components from the root down; none for `/`.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
    }

    /// Whether this is `folder` itself or lies below it.
    pub fn is_within(&self, folder: &FolderPath) -> bool {
        let mut own = self.components();
        folder.components().all(|component| own.next() == Some(component))
    }

    fn to_argument(&self) -> String {
        let mut argument = String::with_capacity(self.0.len());
        for &byte in &self.0 {
            match byte {
                b'/' => argument.push('-'),
                _ if stands_for_itself(byte) => argument.push(char::from(byte)),
                _ => {
                    argument.push('_');
                    argument.push(char::from(HEX[usize::from(byte >> 4)]));
                    argument.push(char::from(HEX[usize::from(byte & 15)]));
                }
            }
        }
        argument
    }

    fn from_argument(argument: &[u8]) -> Result<FolderPath, ArgumentError> {
        let mut path = Vec::with_capacity(argument.len());
        let mut rest = argument;
        while let [byte, tail @ ..] = rest {
            rest = tail;
            path.push(match byte {
                b'-' => b'/',
                b'_' => {
                    let [high, low, tail @ ..] = rest else {
                        return Err(ArgumentError::BadEscape);
                    };
                    rest = tail;
                    let byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
                    if stands_for_itself(byte) || matches!(byte, 0 | b'/') {
                        return Err(ArgumentError::NeedlessEscape(byte));
                    }
                    byte
                }
                byte if stands_for_itself(*byte) => *byte,
                byte => return Err(ArgumentError::Unescaped(*byte)),
            });
        }
        if path != b"/" {
            for component in path.split(|&byte| byte == b'/').skip(1) {
                match component {
                    b"" => return Err(ArgumentError::EmptyComponent),
                    b"." | b".." => return Err(ArgumentError::DotComponent),
                    _ => {}
                }
            }
        }
        Ok(FolderPath(path))
    }
}

/// Safe to show on a terminal: what is not printable is escaped.
impl fmt::Display for FolderPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printable(&self.0).fmt(f)
    }
}

impl Alias {
    /// Enough for a name that people type, and well within a qrexec argument.
    pub const MAX_LENGTH: usize = 64;

    /// The alias as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Alias {
    type Err = FolderError;

    fn from_str(text: &str) -> Result<Self, FolderError> {
        let first_fits = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest_fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        if first_fits && rest_fits && text.len() <= Self::MAX_LENGTH {
            Ok(Alias(text.to_owned()))
        } else {
            Err(FolderError::NoAlias(text.as_bytes().to_vec()))
        }
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'.'
}

fn hex_digit(digit: u8) -> Result<u8, ArgumentError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(ArgumentError::BadEscape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Folder, FolderError> {
        Folder::parse(OsStr::from_bytes(bytes))
    }

    /// One folder, one argument, in both directions.
    const EXAMPLES: &[(&[u8], &str)] = &[
        (b"/", "-"),
        (b"/srv", "-srv"),
        (b"/home/user/My docs", "-home-user-My_20docs"),
        (b"/home/user/.config", "-home-user-.config"),
        (b"/mnt/a-b_c", "-mnt-a_2db_5fc"),
        (b"/...", "-..."),
        (b"/a+b", "-a_2bb"),
        (b"/-", "-_2d"),
        (b"/_2F", "-_5f2F"),
        ("/Müll".as_bytes(), "-M_c3_bcll"),
        (b"/\xff\x01\n\\", "-_ff_01_0a_5c"),
        (b"media", "media"),
        (b"my-media_2.old", "my-media_2.old"),
    ];

    #[test]
    fn examples() {
        for &(folder, argument) in EXAMPLES {
            let folder = parse(folder).unwrap();
            assert_eq!(folder.to_argument(), argument);
            assert_eq!(Folder::from_argument(argument.as_bytes()), Ok(folder));
        }
    }

    #[test]
    fn an_argument_in_any_other_spelling_is_refused() {
        use ArgumentError::*;
        for (argument, why) in [
            (&b""[..], Empty),
            (b"/srv", NoAlias),
            (b".hidden", NoAlias),
            (b"_2fsrv", NoAlias),
            (b"med ia", NoAlias),
            (b"\xff", NoAlias),
            (b"-a/b", Unescaped(b'/')),
            (b"-a b", Unescaped(b' ')),
            (b"-a+b", Unescaped(b'+')),
            (b"-a\0", Unescaped(0)),
            (b"-\xc3\xbc", Unescaped(0xc3)),
            (b"-_", BadEscape),
            (b"-a_2", BadEscape),
            (b"-a_2F", BadEscape),
            (b"-a_5F", BadEscape),
            (b"-a_+1", BadEscape),
            (b"-_2f", NeedlessEscape(b'/')),
            (b"-_61", NeedlessEscape(b'a')),
            (b"-_2e_2e", NeedlessEscape(b'.')),
            (b"-a_00", NeedlessEscape(0)),
            (b"--", EmptyComponent),
            (b"-a-", EmptyComponent),
            (b"-a--b", EmptyComponent),
            (b"-.", DotComponent),
            (b"-a-..", DotComponent),
            (b"-..-etc", DotComponent),
        ] {
            assert_eq!(Folder::from_argument(argument), Err(why), "{}", printable(argument));
        }
    }

    #[test]
    fn what_a_person_writes_is_brought_into_canonical_spelling() {
        for (written, canonical) in [
            (&b"//"[..], &b"/"[..]),
            (b"/.", b"/"),
            (b"/srv/", b"/srv"),
            (b"//srv///data//", b"/srv/data"),
            (b"/./srv/./x/.", b"/srv/x"),
            (b"/srv/..x/.y", b"/srv/..x/.y"),
        ] {
            assert_eq!(parse(written).unwrap().as_bytes(), canonical);
        }
    }

    #[test]
    fn what_cannot_be_a_folder_is_refused_with_advice() {
        for (written, why) in [
            (&b""[..], FolderError::Empty),
            (b"srv/data", FolderError::Relative(b"srv/data".to_vec())),
            (b"./srv", FolderError::Relative(b"./srv".to_vec())),
            (b".", FolderError::Relative(b".".to_vec())),
            (b"..", FolderError::Relative(b"..".to_vec())),
            (b"/srv/../etc", FolderError::Parent(b"/srv/../etc".to_vec())),
            (b"/..", FolderError::Parent(b"/..".to_vec())),
            (b"/a\0b", FolderError::Nul),
            (b"-media", FolderError::NoAlias(b"-media".to_vec())),
            (b"my media", FolderError::NoAlias(b"my media".to_vec())),
            (b".media", FolderError::NoAlias(b".media".to_vec())),
        ] {
            assert_eq!(parse(written), Err(why));
        }
        assert!(parse(&[b'a'; 64]).is_ok());
        assert!(parse(&[b'a'; 65]).is_err());
        let shown = parse(b"a\x1b/b").unwrap_err().to_string();
        assert!(shown.starts_with(r"a\u{1b}/b is a relative path"), "{shown}");
    }

    #[test]
    fn within_goes_by_whole_components() {
        let path = |text: &str| FolderPath::parse(OsStr::new(text)).unwrap();
        assert!(path("/srv/data").is_within(&path("/srv")));
        assert!(path("/srv").is_within(&path("/srv")));
        assert!(path("/srv").is_within(&path("/")));
        assert!(!path("/srv2").is_within(&path("/srv")));
        assert!(!path("/").is_within(&path("/srv")));
    }

    fn any_path() -> impl Strategy<Value = FolderPath> {
        let byte = any::<u8>().prop_filter("cannot be in a name", |b| !matches!(b, 0 | b'/'));
        let name = proptest::collection::vec(byte, 1..12)
            .prop_filter("has a meaning of its own", |name| name != b"." && name != b"..");
        proptest::collection::vec(name, 0..6).prop_map(|names| {
            let joined = names.join(&b'/');
            FolderPath::parse(OsStr::from_bytes(&[b"/", &joined[..]].concat())).unwrap()
        })
    }

    /// Bytes that mean something in arguments come up often.
    fn any_argument() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            4 => proptest::sample::select(&b"-_.0afA2F+/ "[..]),
            1 => any::<u8>(),
        ];
        proptest::collection::vec(byte, 0..16)
    }

    proptest! {
        #[test]
        fn every_path_comes_back_from_its_argument(path in any_path()) {
            let folder = Folder::Path(path);
            let argument = folder.to_argument();
            prop_assert!(argument.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
            prop_assert_eq!(Folder::from_argument(argument.as_bytes()), Ok(folder));
        }

        #[test]
        fn no_folder_has_two_arguments(argument in any_argument()) {
            if let Ok(folder) = Folder::from_argument(&argument) {
                prop_assert_eq!(folder.to_argument().into_bytes(), argument);
                prop_assert_eq!(parse(folder.as_bytes()), Ok(folder));
            }
        }

        #[test]
        fn canonical_spelling_is_final(written in any_argument()) {
            if let Ok(folder) = parse(&written) {
                prop_assert_eq!(parse(folder.as_bytes()), Ok(folder));
            }
        }
    }
}
