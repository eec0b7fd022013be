//! What the running kernel can do for a mount: its version, its memory, whether it has v9fs.
//!
//! Found by reading /proc, so nothing here needs a privilege; loading a module does, and asks for
//! it. What follows from the answers is decided in [`crate::frontend`].

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use transport::id::Msize;

/// Major and minor number of a kernel, `6.12` of `6.12.117-1.fc41`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version(pub u16, pub u16);

impl Version {
    /// The version that a release string begins with.
    pub fn parse(release: &str) -> Option<Version> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Version(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }

    /// The running kernel's. One that cannot be read counts as 0.0, the oldest: what is chosen for
    /// old kernels is understood by all.
    pub fn running() -> Version {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Version::parse(&release).unwrap_or(Version(0, 0))
    }
}

/// The msize that `--msize auto` asks for with `memory` bytes of RAM.
///
/// The kernel allocates each message as one contiguous block, rounded up to a power of two: with
/// 2ⁿ+24 that is 2ⁿ⁺¹. On a small or fragmented qube the search for a large one is slow and can
/// fail, so a block is at most 1/1024 of the memory. More than 524,312 is not taken: the block for
/// it is the largest that allocation is at all dependable for, and the gain is within noise.
pub fn auto_msize(memory: u64) -> Msize {
    const GIB: u64 = 1 << 30;
    let bytes = match memory {
        _ if memory >= GIB => (512 << 10) + Msize::IO_HEADER,
        _ if memory >= GIB / 2 => (256 << 10) + Msize::IO_HEADER,
        _ => (128 << 10) + Msize::IO_HEADER,
    };
    Msize::new(bytes).expect("all three are in an msize's range")
}

/// The msize that `--msize auto` asks for on a channel that has carried something: `first` is what it
/// would ask for on a new one, `memory` as in [`auto_msize`]; `rate` is the best rate seen, in bytes a
/// second.
///
/// v9fs waits for each message as a whole. On a slow channel a large one makes a program wait for bytes that
/// it may not want, so that none is to take more than 50 ms. On one that has more on its way than a message
/// has, one of a whole MiB is worth its memory.
pub fn tuned_msize(first: Msize, memory: u64, rate: u64, rtt: Duration) -> Msize {
    const PLENTY: u64 = 4 << 30;
    let of = |bytes: u32| Msize::new(bytes + Msize::IO_HEADER).unwrap_or(first).min(first);
    let on_its_way = u128::from(rate) * rtt.as_micros() / 1_000_000;
    match rate / 20 {
        in_time if in_time < 128 << 10 => of(64 << 10),
        in_time if in_time < 256 << 10 => of(128 << 10),
        in_time if in_time < 512 << 10 => of(256 << 10),
        _ if on_its_way > 512 << 10 && memory >= PLENTY => Msize::MAX,
        _ => first,
    }
}

/// The largest msize that this kernel takes over descriptors (`net/9p/trans_fd.c`: `MAX_SOCK_BUF`,
/// raised in 5.15). More is clamped, with a line in the kernel's log.
pub fn largest_msize(version: Version) -> Msize {
    if version >= Version(5, 15) {
        Msize::MAX
    } else {
        Msize::new(64 << 10).expect("64 KiB is in an msize's range")
    }
}

/// The msize that this kernel takes when none is asked for (`net/9p/client.c`: `DEFAULT_MSIZE`). It
/// matters because a mount that has just this one does not show it.
pub fn default_msize(version: Version) -> Msize {
    let bytes = match version {
        _ if version >= Version(6, 4) => (128 << 10) + Msize::IO_HEADER,
        _ if version >= Version(5, 15) => 128 << 10,
        _ => 8 << 10,
    };
    Msize::new(bytes).expect("all three are in an msize's range")
}

/// Whether this process may mount: it has CAP_SYS_ADMIN, and in the initial user namespace, as v9fs
/// wants it.
pub fn may_mount() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    let capable =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    capable && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_initial(&map))
}

/// Whether a uid_map is that of the initial user namespace: every uid stands for itself. Another
/// namespace with the same map would have to be made by root; its mount(2) then says what is wrong.
fn is_initial(uid_map: &str) -> bool {
    uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// The memory of this qube in bytes (`MemTotal`; with Qubes' memory balancing: what it has now).
/// 0 where it cannot be read.
pub fn memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    mem_total(&meminfo).unwrap_or(0)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Whether the kernel has v9fs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum V9fs {
    /// It is there.
    Ready,
    /// A module that is installed and will be loaded by whoever mounts with the right to.
    Loadable,
    /// It is not there and cannot be had.
    Missing,
}

/// Looks for v9fs; where it is not there and `load` says so, tries to load its modules, with
/// `sudo -n` where this process is not root, so that nobody is asked anything.
///
/// The file system is module `9p`. Its transport over descriptors is part of `9pnet` on kernels
/// before 5.17 and a module `9pnet_fd` since; a missing name does not stop `modprobe -a`.
pub fn v9fs(load: bool) -> V9fs {
    if listed() {
        return V9fs::Ready;
    }
    if load && modprobe() && listed() {
        return V9fs::Ready;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(release.trim());
    if fs::read_to_string(modules.join("modules.dep")).is_ok_and(|text| has_module(&text)) {
        V9fs::Loadable
    } else {
        V9fs::Missing
    }
}

fn listed() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|text| has_filesystem(&text))
}

/// Whether /proc/filesystems has `9p` in it.
fn has_filesystem(filesystems: &str) -> bool {
    filesystems.lines().any(|line| line.split_ascii_whitespace().next_back() == Some("9p"))
}

/// Whether modules.dep has the module `9p` in it, compressed or not.
fn has_module(modules_dep: &str) -> bool {
    modules_dep.lines().filter_map(|line| line.split_once(':')).any(|(path, _)| {
        let file = path.rsplit('/').next().unwrap_or_default();
        file.strip_prefix("9p.ko").is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Runs modprobe, and says whether it could be run; not whether every name was found.
fn modprobe() -> bool {
    // People's PATH often lacks the folders of system programs.
    let Some(modprobe) =
        ["/usr/sbin/modprobe", "/sbin/modprobe"].into_iter().find(|path| Path::new(path).exists())
    else {
        return false;
    };
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(modprobe)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "--", modprobe]);
        sudo
    };
    command.args(["-q", "-a", "9p", "9pnet_fd"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_has_been_measured_gets_messages_that_fit_it() {
        let first = auto_msize(8 << 30);
        let tuned = |memory: u64, megabytes: u64, millis| {
            tuned_msize(first, memory, megabytes * 1_000_000, Duration::from_millis(millis)).bytes()
        };
        assert_eq!(tuned(8 << 30, 900, 0), first.bytes());
        assert_eq!(tuned(8 << 30, 900, 5), 1 << 20, "4.5 MB are on their way");
        assert_eq!(tuned(2 << 30, 900, 5), first.bytes(), "not with little memory");
        assert_eq!(tuned(8 << 30, 9, 5), (256 << 10) + 24);
        assert_eq!(tuned(8 << 30, 3, 100), (128 << 10) + 24);
        assert_eq!(tuned(8 << 30, 1, 1), (64 << 10) + 24);
        let small = Msize::new(64 << 10).unwrap();
        assert_eq!(
            tuned_msize(small, 8 << 30, 3_000_000, Duration::ZERO),
            small,
            "never more than asked"
        );
    }

    #[test]
    fn versions() {
        for (release, version) in [
            ("6.12.117-1.qubes.fc41.x86_64\n", Some(Version(6, 12))),
            ("6.1.0-28-amd64", Some(Version(6, 1))),
            ("5.4", Some(Version(5, 4))),
            ("6.18-rc1", Some(Version(6, 18))),
            ("linux", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(release), version, "{release}");
        }
        assert!(Version(6, 12) > Version(6, 4));
        assert!(Version::running() > Version(3, 0));
    }

    #[test]
    fn a_messages_block_is_at_most_a_thousandth_of_the_memory() {
        for mib in [200, 511, 512, 1023, 1024, 4096, 65_536_u64] {
            let memory = mib << 20;
            let msize = auto_msize(memory);
            let block = u64::from(msize.bytes()).next_power_of_two();
            assert!(block <= memory / 1024 || msize.bytes() == 131_096, "{mib} MiB");
            assert!(msize.payload().is_power_of_two());
        }
        assert_eq!(auto_msize(0).bytes(), 131_096);
        assert_eq!(auto_msize(600 << 20).bytes(), 262_168);
        assert_eq!(auto_msize(2 << 30).bytes(), 524_312);
    }

    #[test]
    fn memory_is_read() {
        assert_eq!(mem_total("MemTotal:       24684084 kB\nMemFree: 1 kB\n"), Some(25_276_502_016));
        assert_eq!(mem_total("MemFree: 1 kB\n"), None);
        assert!(memory() > 0);
    }

    #[test]
    fn what_kernels_take() {
        for (version, largest, default) in [
            (Version(5, 4), 65_536, 8_192),
            (Version(5, 15), 1_048_576, 131_072),
            (Version(6, 1), 1_048_576, 131_072),
            (Version(6, 4), 1_048_576, 131_096),
            (Version(6, 12), 1_048_576, 131_096),
        ] {
            assert_eq!(largest_msize(version).bytes(), largest);
            assert_eq!(default_msize(version).bytes(), default);
        }
    }

    #[test]
    fn other_user_namespaces_are_told_from_the_initial_one() {
        assert!(is_initial("         0          0 4294967295\n"));
        assert!(!is_initial("         0       1000          1\n"));
        assert!(!is_initial("         0     100000      65536\n"));
        assert!(!is_initial(""));
    }

    #[test]
    fn v9fs_is_told_from_what_is_called_alike() {
        assert!(has_filesystem("nodev\tsysfs\nnodev\t9p\n\text4\n"));
        assert!(!has_filesystem("nodev\tsysfs\n\t9pfs\nnodev\tx9p\n"));
        assert!(has_module("kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz\n"));
        assert!(has_module("kernel/fs/9p/9p.ko:\n"));
        assert!(!has_module("kernel/net/9p/9pnet.ko:\nkernel/x/a.ko: kernel/fs/9p/9p.ko\n"));
    }
}
