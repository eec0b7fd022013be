//! Which lane of the channel a message takes.

use crate::accel::hint::MAX_FORGET;
use crate::mux::Class;
use crate::ninep::Kind;

/// Messages up to this size are small: metadata, and reads and writes of a page or two. Larger ones
/// are bulk, behind which nobody should have to wait.
pub const SMALL: usize = 8 * 1024 + 24;

/// The lane of a message of `size` bytes. Flushes and versions are never to overtake what they speak
/// of, so they stay behind their stream's bulk (flush(5), version(5)).
pub fn class(kind: Kind, size: usize) -> Class {
    match kind {
        Kind::Tflush | Kind::Rflush | Kind::Tversion | Kind::Rversion => Class::Bulk,
        // Before any reply to a request that came after what it takes back.
        Kind::Rforget if size <= MAX_FORGET => Class::Small,
        _ if size > SMALL => Class::Bulk,
        _ => Class::Small,
    }
}
