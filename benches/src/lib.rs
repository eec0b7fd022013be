//! What the benches and the tests of this workspace share.
//!
//! [`channel`] is a modelled qrexec data path, [`standin`] the rest of a qrexec call: policy, service
//! and environment. Together they are the binary `qrexec-standin`, which takes the place of
//! `qrexec-client-vm` on a machine without Qubes.
//!
//! The rest measures. [`harness`] sets up what is compared, each over the same channel; [`client9p`]
//! and [`workload`] ask it what the kernel would ask, [`measure`] takes the time, and [`process`] counts
//! what it costs. The criterion
//! benches (`benches/`) run it in full. [`figures`] is the table of `make bench`: a [`record`] of each
//! figure beside its baseline and its target, that [`report`] writes out.

pub mod channel;
pub mod client9p;
pub mod figures;
pub mod harness;
pub mod measure;
pub mod process;
pub mod record;
pub mod report;
pub mod standin;
pub mod workload;
