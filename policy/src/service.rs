//! What a call asks for, as the service and argument that dom0's policy sees.
//!
//! Reading only and reading with writing are two services, so that dom0 can allow one and ask for
//! the other. The folder is the argument ([`crate::folder`]).

use std::fmt;

use crate::folder::{ArgumentError, Folder};

/// The most bytes of `SERVICE+ARGUMENT` that are sent. qrexec takes 255 for a service's name, but
/// its agent in the calling qube dies of an overlong one, so this keeps well away from any bound.
pub const MAX_SERVICE_LENGTH: usize = 200;

const MOUNT: &str = "sharedfolders.Mount";
const MOUNT_READ_ONLY: &str = "sharedfolders.MountReadOnly";

/// One request to mount: which folder, and whether writing is asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Call {
    /// The folder, in the server qube.
    pub folder: Folder,
    /// Asked through the service that grants reading only.
    pub read_only: bool,
}

/// The folder's name is too long for a call.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the folder's name takes {length} bytes in a call and {MAX_SERVICE_LENGTH} are possible; \
     give the folder an alias in exports.toml of the other qube and mount that"
)]
pub struct TooLong {
    /// The bytes that service and argument would have.
    pub length: usize,
}

/// Why a service and argument are no call of this program.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// Not one of the two services.
    #[error("the call is neither for {MOUNT} nor for {MOUNT_READ_ONLY}")]
    Service,
    /// Longer than any call that this program makes.
    #[error("the call's service and argument have more than {MAX_SERVICE_LENGTH} bytes")]
    TooLong,
    /// The argument names no folder.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
}

impl Folder {
    /// `SERVICE+ARGUMENT` of a call for this folder, at most [`MAX_SERVICE_LENGTH`] bytes.
    pub fn service_with_argument(&self, read_only: bool) -> Result<String, TooLong> {
        let service = if read_only { MOUNT_READ_ONLY } else { MOUNT };
        let text = format!("{service}+{}", self.to_argument());
        if text.len() > MAX_SERVICE_LENGTH {
            return Err(TooLong { length: text.len() });
        }
        Ok(text)
    }
}

impl Call {
    /// The call that `SERVICE+ARGUMENT` is (qrexec's `QREXEC_SERVICE_FULL_NAME`). It comes from the
    /// other qube: whatever [`Folder::service_with_argument`] would not have written is refused.
    pub fn parse(text: &[u8]) -> Result<Call, CallError> {
        if text.len() > MAX_SERVICE_LENGTH {
            return Err(CallError::TooLong);
        }
        let plus = text.iter().position(|&byte| byte == b'+').unwrap_or(text.len());
        let (service, argument) = text.split_at(plus);
        let read_only = match service {
            _ if service == MOUNT.as_bytes() => false,
            _ if service == MOUNT_READ_ONLY.as_bytes() => true,
            _ => return Err(CallError::Service),
        };
        let folder = Folder::from_argument(argument.get(1..).unwrap_or_default())?;
        Ok(Call { folder, read_only })
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.read_only { "read-only" } else { "read-write" };
        write!(f, "{} ({how})", self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn folder(text: &str) -> Folder {
        Folder::parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn reading_only_is_a_service_of_its_own() {
        let folder = folder("/home/user/My docs");
        for (read_only, text) in [
            (false, "sharedfolders.Mount+-home-user-My_20docs"),
            (true, "sharedfolders.MountReadOnly+-home-user-My_20docs"),
        ] {
            assert_eq!(folder.service_with_argument(read_only).as_deref(), Ok(text));
            let call = Call { folder: folder.clone(), read_only };
            assert_eq!(Call::parse(text.as_bytes()), Ok(call));
        }
    }

    #[test]
    fn two_hundred_bytes_are_the_limit() {
        // "sharedfolders.Mount+" has 20 bytes, "sharedfolders.MountReadOnly+" has 28.
        let fits = folder(&format!("/{}", "a".repeat(179)));
        assert_eq!(fits.service_with_argument(false).unwrap().len(), 200);
        assert_eq!(fits.service_with_argument(true), Err(TooLong { length: 208 }));
        let long = folder(&format!("/{}", "a".repeat(180)));
        let error = long.service_with_argument(false).unwrap_err();
        assert_eq!(error, TooLong { length: 201 });
        assert!(error.to_string().contains("alias"));
        let text = format!("sharedfolders.Mount+-{}", "a".repeat(180));
        assert_eq!(Call::parse(text.as_bytes()), Err(CallError::TooLong));
    }

    #[test]
    fn other_services_are_refused() {
        for text in [
            "",
            "+-srv",
            "sharedfolders.Mount2+-srv",
            "sharedfolders.mount+-srv",
            "sharedfolders.MountReadonly+-srv",
            "qubes.Filecopy",
        ] {
            assert_eq!(Call::parse(text.as_bytes()), Err(CallError::Service), "{text}");
        }
        for text in ["sharedfolders.Mount", "sharedfolders.Mount+"] {
            assert_eq!(Call::parse(text.as_bytes()), Err(ArgumentError::Empty.into()), "{text}");
        }
    }
}
