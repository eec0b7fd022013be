//! What the benches and the tests of this workspace share.
//!
//! [`channel`] is a modelled qrexec data path, [`standin`] the rest of a qrexec call: policy, service
//! and environment. Together they are the binary `qrexec-standin`, which takes the place of
//! `qrexec-client-vm` on a machine without Qubes.

pub mod channel;
pub mod standin;
