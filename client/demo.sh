#!/bin/bash
# `make demo`: the main job on this machine, without Qubes. Mounts a folder through the whole program
# (kernel, client end, channel, server end, file server), copies it both ways, compares every byte, says
# how fast it was, unmounts, and shows that nothing is left running.
#
# It mounts with this machine's kernel: with its v9fs where it has that and root's rights are at hand, else
# with FUSE. Where it has neither, with the kernel of user-mode Linux, which boots as an ordinary process
# and sees this machine's files. In there a system call costs ten times more: its figures are for
# comparison with each other only.
#
# FOLDER=/some/folder mounts that folder (it is only read); otherwise a tree of some 300 MB is made.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
programs=$top/target/release
help() { /usr/bin/python3 "$top/client/tests/kernel/help.py" "$@"; }
say() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
seconds() { local now=${EPOCHREALTIME/[.,]/}; echo "$(((now - $1) / 1000000)).$(((now - $1) / 100000 % 10)) s"; }
stamp() { echo "${EPOCHREALTIME/[.,]/}"; }

# As root, or with a sudo that asks nothing.
sudo=
[ "$(id -u)" -eq 0 ] || sudo='sudo -n'

# The part that mounts, on whichever kernel: $1 is a folder for everything that it writes.
inside() {
    local work=$1 from=${FOLDER:-} start files size row before
    # Somebody may be using this build already.
    before=$(running)
    mkdir -p "$work"/{served,mount,scratch,scratch.mount,strict.mount,diod.mount,copy}

    if [ -n "$from" ]; then
        say "The folder to share is $from"
    else
        from=$work/served
        say "Making a folder to share: 1,500 files of all sizes and four large ones"
        help tree "$from" 1500
        for number in 1 2 3 4; do head -c 70000000 /dev/urandom >"$from/large-$number"; done
    fi
    files=$(find "$from" | wc -l)
    size=$(du -sm --apparent-size "$from" | cut -f 1)
    note "$files entries, $size MB"

    say "Mounting it, and an empty folder for writing, as a qube would: qvm-mount-folder work FOLDER MOUNTPOINT"
    note "--via local starts the service here, as qrexec would; both mounts share one channel"
    "$programs/qvm-mount-folder" work "$from" "$work/mount" --via local --read-only
    "$programs/qvm-mount-folder" work "$work/scratch" "$work/scratch.mount" --via local
    "$programs/qvm-mount-folder" --list

    say "Copying everything out of the mount"
    start=$(stamp)
    cp -a "$work/mount/." "$work/copy"
    note "took $(seconds "$start")"
    compare "$from" "$work/copy"

    say "Copying everything into the other mount"
    start=$(stamp)
    cp -a "$work/copy/." "$work/scratch.mount"
    note "took $(seconds "$start")"
    compare "$from" "$work/scratch"
    rm -rf "${work:?}/copy"

    say "Rates and round trips, one request after another"
    # What is measured is to be the road, not what the kernel remembers: FUSE is to ask each time.
    "$programs/qvm-mount-folder" work "$work/scratch" "$work/strict.mount" --via local --coherence strict
    printf '   %-34s %10s %10s %13s %8s\n' '' 'read MB/s' 'write MB/s' 'round trip us' 'stat/s'
    read -ra row < <(help rates "$work/strict.mount" rates)
    line 'this program' "${row[@]}"
    if [ "$(id -u)" -eq 0 ] && grep -qw 9p /proc/filesystems; then
        help diod "$work/scratch" "$work/diod.mount" msize=65536,cache=none
        read -ra row < <(help rates "$work/diod.mount" rates)
        line 'diod directly on a socketpair' "${row[@]}"
        umount "$work/diod.mount"
    fi
    read -ra row < <(help raw)
    line 'the bare socketpair' "${row[@]}"
    note "(round trip: fstat of an open file, median; stat/s: by name; of the socketpair: 64 KiB writes)"

    say "Unmounting"
    unmount "$work/mount" "$work/scratch.mount" "$work/strict.mount"
    sleep 1
    note "what is running of this program a second later (ps):"
    # A process that is only waiting to be collected by init has ended.
    if running | grep -vxF -e "$before"; then
        note "that should not be"
        return 1
    fi
    note "nothing"
}

# As whoever mounted: root, or this user through fusermount3.
unmount() {
    local each
    for each; do
        if grep -q " $each fuse.qvm .*user_id=$(id -u)," /proc/mounts && [ "$(id -u)" -ne 0 ]; then
            fusermount3 -u "$each"
        else
            $sudo umount "$each"
        fi
    done
}

# The processes of this build's programs.
running() {
    ps -e -o pid=,stat=,args= | awk -v programs="$programs/qvm-" '$2 !~ /^Z/ && index($3, programs) == 1 { print $1, $3 }'
}

line() {
    printf '   %-34s %10s %10s %13s %8s\n' "$@"
}

compare() {
    help sum "$1" >"$work/sum.a"
    help sum "$2" >"$work/sum.b"
    if ! cmp -s "$work/sum.a" "$work/sum.b"; then
        diff "$work/sum.a" "$work/sum.b" | head
        note "THEY DIFFER"
        exit 1
    fi
    note "compared: names, modes, sizes and every byte of $(wc -l <"$work/sum.a") entries are the same"
}

# In user-mode Linux: what it prints goes to the console, which the outer part reads.
if [ -n "${DEMO_INSIDE:-}" ]; then
    echo "@@ begin"
    set +e
    (set -e; inside /mnt/demo)
    echo "@@ status $?"
    exit
fi

say "Building (release)"
(cd "$top" && ${CARGO:-cargo} build --release --workspace --bins)
if [ -n "${FOLDER:-}" ]; then
    FOLDER=$(realpath -e "$FOLDER")
    export FOLDER
    [ -d "$FOLDER" ] || { echo "error: $FOLDER is not a folder" >&2; exit 1; }
fi

# The kernel's module may have to be loaded first.
v9fs_here() {
    $sudo true || return 1
    grep -qw 9p /proc/filesystems || $sudo modprobe -a 9p 9pnet_fd
    grep -qw 9p /proc/filesystems
} 2>/dev/null

# Root opens it whatever its mode; others need the helper besides.
fuse_here() {
    [ -c /dev/fuse ] || return 1
    [ "$(id -u)" -eq 0 ] || { [ -w /dev/fuse ] && command -v fusermount3 >/dev/null; }
}

by=
if v9fs_here; then
    by=v9fs
elif fuse_here; then
    by=FUSE
fi
if [ -n "$by" ]; then
    say "Mounting with $by of this machine's kernel ($(uname -r))"
    work=$(mktemp -d)
    trap 'for each in "$work"/*mount; do unmount "$each" 2>/dev/null || true; done
        rm -rf --one-file-system "$work"' EXIT
    inside "$work"
    say "Done"
    exit
fi

say "Mounting with the kernel of user-mode Linux (this one has neither v9fs nor FUSE that may be used)"
if [ -n "${FOLDER:-}" ] && [ "$(du -sm --apparent-size "$FOLDER" | cut -f 1)" -gt 1000 ]; then
    echo "error: $FOLDER is larger than the 1,000 MB that this machine in memory can copy" >&2
    echo "hint: choose a smaller folder, or run this on a kernel with v9fs or FUSE" >&2
    exit 1
fi
init=$(mktemp)
console=$(mktemp)
{
    echo '#!/bin/bash'
    printf 'export %s=%q\n' KERNEL_FOLDER "$top/client/tests/kernel" KERNEL_MODULES 9p \
        KERNEL_MAIN "$top/client/demo.sh" FOLDER "${FOLDER:-}" DEMO_INSIDE 1
    printf 'exec /bin/bash %q\n' "$top/client/tests/kernel/boot.sh"
} >"$init"
chmod 755 "$init"
# In the background and waited for: user-mode Linux has a session of its own, and Ctrl-C is to end it.
setpriv --pdeathsig KILL -- linux.uml mem=3072M rootfstype=hostfs rootflags=/ ro init="$init" \
    con0=fd:0,fd:1 con=null ssl=null quiet </dev/null 2>/dev/null \
    > >(tr -d '\r' | tee "$console" | sed -un '/^@@ begin/,/^@@ status/{/^@@/!p}') &
machine=$!
trap 'kill -KILL -- "-$machine" "$machine" 2>/dev/null || true; rm -f "$init" "$console"' EXIT
trap 'exit 130' INT TERM HUP
wait "$machine" || true
sleep 0.2 # the last lines pass the filters
if ! grep -qx '@@ status 0' "$console"; then
    echo "error: the run inside user-mode Linux did not end well" >&2
    tail -n 5 "$console" >&2
    exit 1
fi
say "Done"
