//! Names of qubes, and what a call may be addressed to.
//!
//! [`QubeName`] is a qube that exists (dom0 vouches for it in `QREXEC_REMOTE_DOMAIN`, the server
//! end's preface tells it). [`Target`] is what a person writes in its place: a name, or one of
//! qrexec's keywords that dom0's policy resolves. The rules are those of Qubes: `qubes.vm` for
//! names, `qrexec` for targets.

use std::fmt;
use std::str::FromStr;

/// The name of a qube: a letter, then letters, digits, `-`, `_` and `.`, at most
/// [`QubeName::MAX_LENGTH`] in all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QubeName(String);

/// Why a text is no name of a qube or no target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// No characters at all.
    #[error("the name is empty")]
    Empty,
    /// More characters than Qubes permits.
    #[error("the name is longer than {0} characters")]
    TooLong(usize),
    /// Begins with something else than a letter.
    #[error("the name of a qube begins with a letter")]
    FirstCharacter,
    /// Something else than letters, digits, `-`, `_` and `.`.
    #[error("the name of a qube has only letters, digits, '-', '_' and '.' in it")]
    Character,
    /// A keyword of qrexec that is none, or that owns no folders.
    #[error("of the names with '@' only @default, @dispvm and @dispvm:QUBE can be asked")]
    Keyword,
}

impl QubeName {
    /// Qubes refuses to create a longer one.
    pub const MAX_LENGTH: usize = 31;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for QubeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_name(text)?;
        if text.len() > Self::MAX_LENGTH {
            return Err(NameError::TooLong(Self::MAX_LENGTH));
        }
        Ok(QubeName(text.to_owned()))
    }
}

impl fmt::Display for QubeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_name(text: &str) -> Result<(), NameError> {
    let first = text.bytes().next().ok_or(NameError::Empty)?;
    if !first.is_ascii_alphabetic() {
        return Err(NameError::FirstCharacter);
    }
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(NameError::Character);
    }
    Ok(())
}

/// What a call is addressed to: the name of a qube, `@default`, `@dispvm` or `@dispvm:QUBE`, at
/// most [`Target::MAX_LENGTH`] characters. It begins with a letter or `@`, never with `-`, and so
/// cannot be taken for an option of the program that makes the call.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Target(String);

impl Target {
    /// qrexec's own bound: a target field has 64 bytes with its final NUL. Names may therefore be
    /// longer here than Qubes lets a qube be called, for stand-ins of qrexec.
    pub const MAX_LENGTH: usize = 63;

    /// The target as text, as qrexec takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The qube, where the target names one itself. `None`: dom0 decides, and the server end's
    /// preface says which one it became.
    pub fn qube(&self) -> Option<QubeName> {
        self.0.parse().ok()
    }
}

impl FromStr for Target {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix('@') {
            None => check_name(text)?,
            Some("default" | "dispvm") => {}
            Some(keyword) => {
                check_name(keyword.strip_prefix("dispvm:").ok_or(NameError::Keyword)?)?;
            }
        }
        if text.len() > Self::MAX_LENGTH {
            return Err(NameError::TooLong(Self::MAX_LENGTH));
        }
        Ok(Target(text.to_owned()))
    }
}

impl From<QubeName> for Target {
    fn from(name: QubeName) -> Self {
        Target(name.0)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_qubes() {
        for good in ["work", "sys-net", "disp1234", "a", "Domain-0", "w_o.r-k", &"a".repeat(31)] {
            assert_eq!(good.parse::<QubeName>().map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for (bad, why) in [
            ("", NameError::Empty),
            ("-work", NameError::FirstCharacter),
            ("1work", NameError::FirstCharacter),
            (".work", NameError::FirstCharacter),
            ("@default", NameError::FirstCharacter),
            ("work/x", NameError::Character),
            ("work x", NameError::Character),
            ("work\n", NameError::Character),
            ("wörk", NameError::Character),
            (&"a".repeat(32), NameError::TooLong(31)),
        ] {
            assert_eq!(bad.parse::<QubeName>(), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn targets() {
        for good in ["work", "@default", "@dispvm", "@dispvm:work-dvm", &"a".repeat(63)] {
            assert_eq!(good.parse::<Target>().map(|t| t.to_string()), Ok(good.to_owned()));
        }
        for (bad, why) in [
            ("", NameError::Empty),
            ("--help", NameError::FirstCharacter),
            ("@adminvm", NameError::Keyword),
            ("@anyvm", NameError::Keyword),
            ("@", NameError::Keyword),
            ("@dispvm:", NameError::Empty),
            ("@dispvm:-x", NameError::FirstCharacter),
            ("@dispvm:a:b", NameError::Character),
            (&"a".repeat(64), NameError::TooLong(63)),
        ] {
            assert_eq!(bad.parse::<Target>(), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn only_a_plain_name_says_which_qube_it_is() {
        let target = |text: &str| text.parse::<Target>().unwrap();
        assert_eq!(target("work").qube().map(|q| q.to_string()), Some("work".to_owned()));
        assert_eq!(target("@default").qube(), None);
        assert_eq!(target("@dispvm:work").qube(), None);
    }
}
