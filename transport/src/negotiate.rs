//! Which msize a mount uses, from what each party takes.
//!
//! Arithmetic alone: who asks whom, and when, is the relay's and the client's. The msize is the
//! least of what was asked for, what the client kernel's transport takes and what the server end
//! and its backend take (version(5): the answer is never above the request).

use core::fmt;

use crate::id::Msize;

/// Who takes less than was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limiter {
    /// The client kernel's 9P transport.
    Kernel,
    /// The server end or its backend.
    Server,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// The msize to use.
    pub msize: Msize,
    /// Who made it less than was asked for; `None`: it is what was asked for.
    pub limited_by: Option<Limiter>,
}

/// The server end takes less than any client can work with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the other qube takes messages of at most {0} bytes, and {min} is the least",
    min = Msize::MIN
)]
pub struct TooSmall(pub u32);

/// The least of the three. `server` is a peer's number: anything may stand in it; above
/// [`Msize::MAX`] it counts as that, below [`Msize::MIN`] there is no msize.
pub fn negotiate(asked: Msize, kernel: Msize, server: u32) -> Result<Negotiated, TooSmall> {
    let server = Msize::new(server.min(Msize::MAX.bytes())).ok_or(TooSmall(server))?;
    let msize = asked.min(kernel).min(server);
    let limited_by = if msize == asked {
        None
    } else if msize == server {
        Some(Limiter::Server)
    } else {
        Some(Limiter::Kernel)
    };
    Ok(Negotiated { msize, limited_by })
}

impl Negotiated {
    /// The warning for a person who asked for `asked` and got less; `None` where they got it.
    pub fn warning(self, asked: Msize) -> Option<Warning> {
        self.limited_by.map(|by| Warning { asked, used: self.msize, by })
    }
}

/// Says by its `Display` what was used in place of what was asked for, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Warning {
    asked: Msize,
    used: Msize,
    by: Limiter,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Warning { asked, used, by } = self;
        let who = match by {
            Limiter::Kernel => "this qube's kernel",
            Limiter::Server => "the other qube",
        };
        write!(f, "msize {used} is used instead of {asked}: {who} takes no more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn size(bytes: u32) -> Msize {
        Msize::new(bytes).unwrap()
    }

    #[test]
    fn the_least_is_used_and_its_party_named() {
        for (asked, kernel, server, used, by) in [
            (65_536, 1_048_576, 1_048_576, 65_536, None),
            (65_536, 65_536, 65_536, 65_536, None),
            (524_312, 262_168, 1_048_576, 262_168, Some(Limiter::Kernel)),
            (524_312, 1_048_576, 131_096, 131_096, Some(Limiter::Server)),
            (524_312, 131_096, 131_096, 131_096, Some(Limiter::Server)),
            (1_048_576, 1_048_576, u32::MAX, 1_048_576, None),
            (1_048_576, 1_048_576, 4_096, 4_096, Some(Limiter::Server)),
        ] {
            let got = negotiate(size(asked), size(kernel), server);
            assert_eq!(got, Ok(Negotiated { msize: size(used), limited_by: by }));
        }
    }

    #[test]
    fn a_server_that_takes_next_to_nothing_is_no_server() {
        for server in [0, 24, 4_095] {
            let got = negotiate(Msize::MIN, Msize::MAX, server);
            assert_eq!(got, Err(TooSmall(server)));
        }
    }

    #[test]
    fn the_warning_says_both_sizes_and_who() {
        let asked = size(1_048_576);
        let less = negotiate(asked, Msize::MAX, 524_312).unwrap();
        assert_eq!(
            less.warning(asked).unwrap().to_string(),
            "msize 524312 is used instead of 1048576: the other qube takes no more"
        );
        let same = negotiate(asked, Msize::MAX, u32::MAX).unwrap();
        assert_eq!(same.warning(asked), None);
    }
}
