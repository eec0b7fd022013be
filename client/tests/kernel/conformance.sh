# Suites that others wrote to try a file system with, through the kernel's v9fs: pjdfstest (POSIX, call by call) beside the same
# suite on a folder of the disk itself, and fsx (random operations on one file, each read compared).
#
# What passes on the disk has to pass here, or stands in ../conformance/v9fs.txt with its reason; an entry that has become untrue
# fails the case. The reasons that begin with "v9fs:" are tried over diod as well, and have to fail there too.
#: memory=2048M seconds=1200

pjdfstest="$KERNEL_SUITES/pjdfstest"
fsx="$KERNEL_SUITES/fsx"
exceptions="$KERNEL_FOLDER/../conformance/v9fs.txt"
operations=${KERNEL_FSX_OPERATIONS:-10000}

# results FOLDER [CASE...]: "CASE ok|FAILED|skipped" for each case, sorted; all that was said in /run/said.
results() {
    local folder=$1
    shift
    {
        cd /
        NO_COLOR=1 "$pjdfstest" -c /run/pjdfstest.toml -p "$folder" "$@" 2>&1 || true
        cd /mnt
    } >/run/said
    sed -nE 's/^([a-z0-9_:]+) +(ok|FAILED|skipped)$/\1 \2/p' /run/said | sort
}

# The service acts on all files as root does, as the suite on the disk does.
serve_as_root() {
    printf '#!/bin/sh\nexec "%s/qvm-folder-server" --keep-file-capabilities\n' "$KERNEL_PROGRAMS" \
        >$services/sharedfolders.Mount
}

case_pjdfstest() {
    cat >/run/pjdfstest.toml <<'TOML'
[features.posix_fallocate]
[features.utimensat]
[features.utime_now]
[features.rename_ctime]
[settings]
naptime = 0.02
[dummy_auth]
entries = [["nobody", "nogroup"], ["games", "games"]]
TOML
    serve disk a by_diod
    serve_as_root
    mount_folder a
    results $served/disk >/run/on.disk
    results $mounts/a >/run/mounted
    cp /run/said /run/said.mounted
    for name in on.disk mounted; do
        for verdict in ok FAILED skipped; do
            echo "$name: $(grep -c " $verdict\$" /run/$name || true) $verdict"
        done
    done
    [ "$(grep -c ' ok$' /run/on.disk)" -ge 350 ] || fail "the suite does not run on the disk"
    join /run/on.disk /run/mounted | sed -n 's/ ok \(FAILED\|skipped\)$//p' >/run/worse
    sed -n 's/^\([a-z][a-z0-9_:]*\) .*/\1/p' "$exceptions" | sort >/run/excepted
    comm -23 /run/worse /run/excepted >/run/unexpected
    comm -13 /run/worse /run/excepted >/run/untrue
    while read -r name; do
        echo "fails, and is no exception: $name"
        grep -A 2 "^$name " /run/said.mounted
    done </run/unexpected
    sed 's/^/an exception, and does not fail: /' /run/untrue
    [ ! -s /run/unexpected ] && [ ! -s /run/untrue ] || fail "the exceptions do not tell the truth"
    umount_folder a
    # shellcheck disable=SC2046 # names of cases have no blanks
    set -- $(sed -n 's/^\([a-z][a-z0-9_:]*\) v9fs: .*/\1/p' "$exceptions")
    help diod $served/by_diod $mounts/a msize=65536,cache=none
    results $mounts/a "$@" >/run/by_diod
    cat /run/by_diod
    [ "$(grep -c ' FAILED$' /run/by_diod)" = $# ] || fail "not v9fs's doing: it passes over diod"
}

case_fsx() {
    cat >/run/fsx.toml <<'TOML'
[weights]
close_open = 1
invalidate = 1
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 10
fsync = 1
fdatasync = 1
sendfile = 5
posix_fadvise = 1
copy_file_range = 5
TOML
    mount_folder a
    "$fsx" -f /run/fsx.toml -N "$operations" -S 9 -P /run $mounts/a/file
    echo "fsx: $operations operations without a difference"
    cmp $mounts/a/file $served/a/file
}
