//! Step 3: what the process could still do by right, taken away: capabilities, ways to get some,
//! descriptors that came by inheritance, being traced.

use std::os::fd::RawFd;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capabilities_secure_bits,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits, set_no_new_privs,
};

use super::{Failure, Step, sys};

/// What is needed to make the sandbox.
const ADMIN: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SETPCAP);

/// What a root service may keep, to act on a folder as root does. Not `DAC_READ_SEARCH`: that opens
/// files by handle, past every root.
const FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// Whether the process may arrange mounts as it is.
pub fn has_admin() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(ADMIN))
}

/// Gives up all that a new user namespace gives but what the next steps need.
pub fn keep_admin() -> Result<(), Failure> {
    set(ADMIN).step("few capabilities")
}

fn set(to: CapabilitySet) -> Result<(), Errno> {
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: to, permitted: to, inheritable: none })
}

/// Gives up all capabilities, or all but those over files, and every way to get one.
pub fn drop_capabilities(keep_files: bool) -> Result<(), Failure> {
    clear_ambient_capability_set().step("ambient capabilities")?;
    if capabilities(None).step("capabilities")?.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
                // The last one that this kernel knows was the one before.
                Err(Errno::INVAL) => break,
                done => done.step("the bounding set")?,
            }
        }
        let bits = CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
        let now = capabilities_secure_bits().step("securebits")?;
        if !now.contains(bits) {
            set_capabilities_secure_bits(bits).step("securebits")?;
        }
    }
    set(if keep_files { FILES } else { CapabilitySet::empty() }).step("no capabilities")?;
    set_no_new_privs(true).step("no new privileges")
}

/// Closes every descriptor but `kept` and the first three.
pub fn close_others(mut kept: Vec<RawFd>) -> Result<(), Failure> {
    kept.extend(0..3);
    kept.sort_unstable();
    kept.dedup();
    let mut from = 0;
    for fd in kept {
        sys::close_between(from, fd).step("other descriptors")?;
        from = fd + 1;
    }
    sys::close_between(from, RawFd::MAX).step("other descriptors")
}

/// Nobody without rights over the whole machine looks into this process.
pub fn hide() -> Result<(), Failure> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("no core dumps")
}
