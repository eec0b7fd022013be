#!/bin/bash
# What the scripts of this folder share, and the loop that runs their cases. A case is a function
# case_NAME, run in a subshell that ends at the first command that fails. After each case everything that
# it mounted is unmounted, and no process of ours may be left.
#
# A new process costs tens of milliseconds in here, a system call tens of microseconds: loops stay in one
# process (help.py), and checks of the process table are shell builtins.

served=/mnt/served # folders of the qube that serves
mounts=/mnt/m      # where they are mounted
services=/run/services
log=/run/calls
help="$KERNEL_FOLDER/help.py"
via="$KERNEL_PROGRAMS/qrexec-standin"
backend=${KERNEL_BACKEND:-embedded} # the file server of our own programs

# The environment of the stand-in; a case may set more before it mounts.
export QREXEC_STANDIN_SERVICES=$services QREXEC_STANDIN_LOG=$log
export QREXEC_STANDIN_SOURCE=client QREXEC_STANDIN_TARGETS="work vault"
mkdir -p $served $mounts $services

write_services() {
    local name
    rm -rf ${services:?}/*
    for name in sharedfolders.Mount sharedfolders.MountReadOnly; do
        printf '#!/bin/sh\nexec "%s/qvm-folder-server" --backend %s\n' "$KERNEL_PROGRAMS" "$backend" >$services/$name
    done
    chmod 755 $services/*
}

fail() {
    echo "FAIL: $*"
    exit 1
}

help() {
    /usr/bin/python3 "$help" "$@"
}

# qvm [ARGUMENT...]: the program under test, over the stand-in.
qvm() {
    "$KERNEL_PROGRAMS/qvm-mount-folder" "$@" --via "$via"
}

# serve NAME...: makes folders that can be mounted.
serve() {
    local name
    for name; do mkdir -p "$served/$name"; done
}

# mount_folder NAME [OPTION...]: mounts the served folder NAME of qube work at $mounts/NAME.
mount_folder() {
    local name=$1
    shift
    mkdir -p "$served/$name" "$mounts/$name"
    if [ -n "$KERNEL_REFERENCE" ]; then
        mount_reference "$name" "$@"
    else
        qvm work "$served/$name" "$mounts/$name" ${KERNEL_COHERENCE:+--coherence "$KERNEL_COHERENCE"} "$@"
    fi
    mountpoint -q "$mounts/$name" || fail "$mounts/$name is not mounted"
}

# The same over diod, with the options that concern the kernel.
mount_reference() {
    local name=$1 cache=none msize=65536
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --cache) cache=$2; shift ;;
            --msize) msize=$2; shift ;;
            *) fail "no option $1 in a reference run" ;;
        esac
        shift
    done
    [ "$cache" = auto ] && cache=none
    help diod "$served/$name" "$mounts/$name" "msize=$msize,cache=$cache"
}

# a_person NAME...: `"${person[@]}" COMMAND` runs as an ordinary user, whom sudo asks nothing, as in a qube;
# who owns these served folders. At the end: no_person.
a_person() {
    local name
    person=(setpriv --reuid 65534 --regid 65534 --clear-groups
        env HOME=/run/person XDG_RUNTIME_DIR=/run/user/65534)
    mkdir -p /run/user/65534 /run/person
    chown 65534:65534 /run/user/65534 /run/person
    chmod 700 /run/user/65534
    for name; do
        mkdir -p "$served/$name" "$mounts/$name"
        chown 65534:65534 "$served/$name"
    done
    touch $log && chmod 666 $log
    echo 'nobody ALL=(root) NOPASSWD: ALL' >/run/sudoers
    chmod 440 /run/sudoers
    mount --bind /run/sudoers /etc/sudoers
}

no_person() {
    within 5 no_process_left
    umount /etc/sudoers
}

umount_folder() {
    umount "$mounts/$1"
}

# ours [PATTERN]: the living processes of ours, as "pid name" lines; a shell's builtins only.
ours() {
    local process name state
    for process in /proc/[0-9]*; do
        { read -r name <"$process/comm"; } 2>/dev/null || continue
        case $name in
            qvm-* | qrexec-standin | diod) ;;
            *) continue ;;
        esac
        { read -r state <"$process/stat"; } 2>/dev/null || continue
        state=${state##*) }
        [ "${state%% *}" = Z ] && continue
        # shellcheck disable=SC2254 # a pattern
        case $name in ${1:-*}) echo "${process#/proc/} $name" ;; esac
    done
}

pids() {
    ours "$1" | while read -r pid _; do echo "$pid"; done
}

no_process_left() {
    [ -z "$(ours)" ]
}

now_ms() {
    echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

# is TEXT COMMAND...: the command prints this. For `within`, which is to run it again and again.
is() {
    local text=$1
    shift
    [ "$("$@")" = "$text" ]
}

# within SECONDS COMMAND...: the command succeeds before the time is over; says how long it took.
within() {
    local start limit
    start=$(now_ms)
    limit=$1
    shift
    until "$@"; do
        [ $(($(now_ms) - start)) -lt $((limit * 1000)) ] || fail "not within $limit s: $*"
        sleep 0.02
    done
    echo "after $(($(now_ms) - start)) ms: $*"
}

# gone PID: the process has ended (a zombie has).
gone() {
    local state
    { read -r state <"/proc/$1/stat"; } 2>/dev/null || return 0
    state=${state##*) }
    [ "${state%% *}" = Z ]
}

# refused CODE PATTERN COMMAND...: the command ends with a code that is CODE, with a sentence on stderr
# that matches PATTERN (extended regular expressions both), and leaves nothing behind.
refused() {
    local code=$1 pattern=$2 status=0
    shift 2
    "$@" >/run/out 2>/run/err </dev/null || status=$?
    cat /run/out /run/err
    [[ $status =~ ^${code}$ ]] || fail "exit code $status, not $code: $*"
    echo "exit code $status"
    grep -Eiq -- "$pattern" /run/err || fail "stderr does not say '$pattern': $*"
    ! grep -q " $mounts/" /proc/mounts || fail "something is mounted: $*"
    within 5 no_process_left
}

# same A B: two trees are the same in names, types, modes, sizes and bytes.
same() {
    help sum "$1" >/run/sum.a
    help sum "$2" >/run/sum.b
    cmp /run/sum.a /run/sum.b || {
        diff /run/sum.a /run/sum.b | head -20
        fail "$1 and $2 differ"
    }
}

# calls: how many qrexec calls were made; living: how many of them still last.
calls() {
    grep -c '^start ' $log
}

living() {
    local pid count=0
    while read -r _ pid _; do
        gone "$pid" || count=$((count + 1))
    done < <(grep '^start ' $log)
    echo $count
}

mounted() {
    local path
    while read -r _ path _; do
        case $path in $mounts/*) echo "$path" ;; esac
    done </proc/mounts
}

clean_up() {
    local path pid
    for path in $(mounted); do umount -l "$path"; done
    for pid in $(pids '*'); do kill -CONT "$pid"; kill -KILL "$pid"; done
    wait
    rm -rf ${served:?}/* $log
} 2>/dev/null

# What every case has to pass at its end.
end_well() {
    local path
    for path in $(mounted); do umount "$path"; done
    within 5 no_process_left
}

run_case() (
    set -Eeuo pipefail
    trap 'echo "line $LINENO: failed with $?: $BASH_COMMAND"' ERR
    "case_$1"
    end_well
)

# shellcheck source=/dev/null
. "$KERNEL_SCRIPT"

for name in $KERNEL_CASES; do
    echo "@@ begin $name"
    if [ -n "$KERNEL_REFERENCE" ] || [ "$backend" != embedded ]; then
        reason=diod_lacks_$name
        if [ -n "${!reason:-}" ]; then
            echo "@@ ignored ${!reason}"
            continue
        fi
    fi
    write_services
    : >$log
    start=$(now_ms)
    run_case "$name" </dev/null
    status=$?
    took=$(($(now_ms) - start))
    if [ $status -eq 0 ]; then
        echo "@@ ok $took ms"
    else
        ours
        dmesg | tail -5
        echo "@@ failed $took ms"
    fi
    clean_up
done
