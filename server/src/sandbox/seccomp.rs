//! Step 4, the last: the system calls that the service makes, and no others.
//!
//! A call that is not on the list fails with `EPERM`; those that have a fallback in libc or in the file
//! server with `ENOSYS`. Nothing is killed for a call: a hole in the list shows as an error of one
//! request. `openat2` gives its flags by pointer, which a filter cannot follow: what may be opened is
//! the root's, the mount's and Landlock's to say. All threads are started later and inherit the list.
//!
//! To find what a change of the service needs: `strace -f -c` of the tests with `--no-sandbox`.

use std::collections::BTreeMap;

use libc::c_long;
use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use super::{Failure, Kind};

/// The `*xattrat` calls of Linux 6.13, and `fchmodat2` of 6.6, which libc does not know yet; the
/// numbers are the same everywhere.
const SETXATTRAT: c_long = 463;
const GETXATTRAT: c_long = 464;
const LISTXATTRAT: c_long = 465;
const REMOVEXATTRAT: c_long = 466;
const FCHMODAT2: c_long = 452;

/// What is allowed whatever its arguments are.
const ALLOWED: &[c_long] = &[
    // Files that are open. No `ioctl` but one, no `io_uring`, no handles.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_vmsplice,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_getdents64,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_pipe2,
    // Files by name. No `openat`: nothing is opened but beneath a folder.
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_readlinkat,
    // Attributes.
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    // What changes.
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // Readiness.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Sockets that are there, and what connects to the desk. No `socket`, no `connect`.
    libc::SYS_accept4,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    // Memory; what makes it executable is below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads. `clone3` is for the second list.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_membarrier,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals to this process, and time.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
];

/// The same in older clothes, which only x86-64 still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = &[libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// What changes attributes, of which Landlock does not know: not for a folder that is for reading. A
/// mount that is read-only refuses them by itself, and a channel's process may have both.
const CHANGES: &[c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchownat,
    libc::SYS_fchown,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
];

/// What names a file otherwise than by an open descriptor, and so goes past Landlock.
const BY_NAME: &[c_long] = &[
    SETXATTRAT,
    GETXATTRAT,
    LISTXATTRAT,
    REMOVEXATTRAT,
    FCHMODAT2,
    libc::SYS_lgetxattr,
    libc::SYS_lsetxattr,
    libc::SYS_llistxattr,
    libc::SYS_lremovexattr,
    libc::SYS_chdir,
    libc::SYS_fchdir,
];

/// Arguments that a call must have one set of to be allowed.
type Arguments = Vec<SeccompCondition>;

fn is(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    let operator = SeccompCmpOp::Eq;
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value)
}

/// An `int`: the upper half is whatever was in the register.
fn is_int(argument: u8, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    let value = u64::from(value as u32);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn masked(
    argument: u8,
    mask: i32,
    value: i32,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (mask, value) = (u64::from(mask as u32), u64::from(value as u32));
    let operator = SeccompCmpOp::MaskedEq(mask);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// What is allowed with some arguments only.
fn by_arguments(kind: Kind) -> Result<Vec<(c_long, Vec<Arguments>)>, seccompiler::BackendError> {
    const NAMESPACES: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | 0x80; // CLONE_NEWTIME
    let not_executable = vec![vec![masked(2, libc::PROT_EXEC, 0)?]];
    let commands = [
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_OFD_GETLK,
        libc::F_OFD_SETLK,
        libc::F_OFD_SETLKW,
        libc::F_GETPIPE_SZ,
        libc::F_SETPIPE_SZ,
    ];
    let this = rustix::process::getpid().as_raw_nonzero().get();
    let each = |argument: u8, values: &[i32]| {
        values.iter().map(|&value| Ok(vec![is_int(argument, value)?])).collect::<Result<_, _>>()
    };
    let mut calls = vec![
        // Threads, and nothing that is less of a thread.
        (
            libc::SYS_clone,
            vec![vec![masked(0, NAMESPACES | libc::CLONE_THREAD, libc::CLONE_THREAD)?]],
        ),
        (libc::SYS_mmap, not_executable.clone()),
        (libc::SYS_mprotect, not_executable),
        (libc::SYS_fcntl, each(1, &commands)?),
        (libc::SYS_ioctl, vec![vec![is_int(1, libc::FIONBIO as i32)?]]),
        // No devices, whoever the service is.
        (
            libc::SYS_mknodat,
            [0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK]
                .into_iter()
                .map(|kind| {
                    let argument = SeccompCmpArgLen::Dword;
                    let mask = SeccompCmpOp::MaskedEq(libc::S_IFMT.into());
                    Ok(vec![SeccompCondition::new(2, argument, mask, kind.into())?])
                })
                .collect::<Result<_, _>>()?,
        ),
        (libc::SYS_prctl, each(0, &[libc::PR_SET_NAME, libc::PR_SET_VMA])?),
        (libc::SYS_getsockopt, vec![vec![is_int(1, libc::SOL_SOCKET)?]]),
        (libc::SYS_setsockopt, vec![vec![is_int(1, libc::SOL_SOCKET)?]]),
        // Its limits are read, not set.
        (libc::SYS_prlimit64, vec![vec![is_int(0, 0)?, is(2, 0)?]]),
        // abort(3).
        (libc::SYS_tgkill, vec![vec![is_int(0, this)?]]),
    ];
    if kind == Kind::Namespaces {
        // A working folder of the thread's own.
        calls.push((libc::SYS_unshare, vec![vec![is(0, libc::CLONE_FS as u64)?]]));
    }
    Ok(calls)
}

fn filter(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    on_match: SeccompAction,
    otherwise: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, on_match, arch)?.try_into()
}

/// What is answered with `ENOSYS`. It comes first: of two filters that refuse a call the later one
/// chooses the errno, so that one has to allow these.
fn missing(kind: Kind) -> Vec<c_long> {
    let mut calls = vec![libc::SYS_clone3];
    if kind == Kind::Landlock {
        calls.extend([SETXATTRAT, GETXATTRAT, LISTXATTRAT, REMOVEXATTRAT, FCHMODAT2]);
    }
    calls
}

fn programs(kind: Kind, read_only: bool) -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let missing = missing(kind);
    let mut rules = BTreeMap::new();
    for (call, sets) in by_arguments(kind)? {
        let sets = sets.into_iter().map(SeccompRule::new).collect::<Result<_, _>>()?;
        rules.insert(call, sets);
    }
    let by_name = if kind == Kind::Namespaces { BY_NAME } else { &[] };
    let changes = if kind == Kind::Landlock && read_only { &[] } else { CHANGES };
    let always = [ALLOWED, ALLOWED_HERE, by_name, changes, &missing].concat();
    rules.extend(always.into_iter().map(|call| (call, Vec::new())));
    let refuse = |errno: Errno| SeccompAction::Errno(errno.raw_os_error() as u32);
    let missing = missing.into_iter().map(|call| (call, Vec::new())).collect();
    Ok([
        filter(missing, refuse(Errno::NOSYS), SeccompAction::Allow)?,
        filter(rules, SeccompAction::Allow, refuse(Errno::PERM))?,
    ])
}

/// Allows nothing but what is on the list of `kind`, from now on.
pub fn install(kind: Kind, read_only: bool) -> Result<(), Failure> {
    let failed = |errno| Failure { step: "the list of system calls", errno };
    let programs = programs(kind, read_only).map_err(|_| failed(Errno::INVAL))?;
    for program in &programs {
        apply_filter(program).map_err(|error| {
            failed(match error {
                seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => {
                    Errno::from_io_error(&error).unwrap_or(Errno::IO)
                }
                _ => Errno::INVAL,
            })
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_are_programs_that_the_kernel_takes() {
        for (kind, read_only) in Kind::ALL.into_iter().zip([false, true]) {
            for program in programs(kind, read_only).unwrap() {
                // BPF_MAXINSNS.
                assert!(program.len() < 4096, "{kind}: {}", program.len());
            }
        }
    }

    #[test]
    fn nothing_that_changes_a_file_by_name_is_allowed_under_landlock() {
        for call in missing(Kind::Landlock) {
            assert!(!ALLOWED.contains(&call) || call == libc::SYS_clone3, "{call}");
        }
        assert!(BY_NAME.iter().all(|call| !ALLOWED.contains(call)));
    }
}
