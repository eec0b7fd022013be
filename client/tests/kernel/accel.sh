# How many round trips the kernel's questions cost, which no noise disturbs, and that what is answered without
# one is right.
#: memory=2048M seconds=420

# trips NAME: the round trips that the mount has waited for, from the list.
trips() {
    "$KERNEL_PROGRAMS/qvm-mount-folder" --list --json |
        /usr/bin/python3 -c 'import json, sys
for mount in json.load(sys.stdin)["mounts"]:
    if mount["mount_point"] == sys.argv[1]: print(mount["round_trips"])' "$mounts/$1"
}

# costs NAME MOST COMMAND...: runs a command, which may cost so many round trips.
costs() {
    local name=$1 most=$2 before after
    shift 2
    before=$(trips "$name")
    "$@" >/run/out || fail "$*: $?"
    after=$(trips "$name")
    echo "$*: $((after - before)) round trips"
    [ $((after - before)) -le "$most" ] || fail "$*: $((after - before)) round trips, more than $most"
}

names() {
    serve "$1"
    help make_files "$served/$1" 1000
}

case_ls_of_a_thousand_names() {
    names a
    mount_folder a --coherence 60s
    costs a 12 ls -l $mounts/a
    ls -l $served/a >/run/expected
    diff /run/expected /run/out
    umount_folder a
}

case_a_strict_mount_asks_for_everything() {
    names a
    mount_folder a --coherence strict
    before=$(trips a)
    ls -l $mounts/a >/run/out
    after=$(trips a)
    echo "strict: $((after - before)) round trips"
    [ $((after - before)) -gt 2000 ] || fail "$((after - before))"
    umount_folder a
}

case_stat_three_folders_deep() {
    serve a
    mkdir -p $served/a/x/y/z
    echo text >$served/a/x/y/z/f
    mount_folder a --coherence 60s
    stat -c '%s %i' $mounts/a/x/y/z/f
    costs a 1 stat -c %s $mounts/a/x/y/z/f
    [ "$(</run/out)" = 5 ]
    umount_folder a
}

case_a_sequential_read_waits_for_nothing() {
    serve a
    head -c 40000000 /dev/urandom >$served/a/f
    mount_folder a --coherence 60s --msize 524312
    # The opening, the first two reads and the end; at 512 KiB each there are 77.
    costs a 12 cat $mounts/a/f
    cmp /run/out $served/a/f
    umount_folder a
}

# What is changed through the mount is seen in it at once, whatever was known before.
case_own_changes_are_seen_at_once() {
    names a
    mkdir $served/a/d
    mount_folder a --coherence 60s
    cd $mounts/a
    ls -l >/run/out
    echo more >>file-000001
    [ "$(stat -c %s file-000001)" = "$(stat -c %s $served/a/file-000001)" ] || fail "size"
    rm file-000002
    [ ! -e file-000002 ] || fail "removed"
    mv file-000003 moved
    [ ! -e file-000003 ] && [ -e moved ] || fail "moved"
    echo new >file-000002
    [ "$(<file-000002)" = new ] || fail "made again"
    chmod 600 file-000004
    [ "$(stat -c %a file-000004)" = 600 ] || fail "mode"
    ln file-000005 linked
    [ "$(stat -c %h file-000005)" = 2 ] || fail "links"
    rm linked
    [ "$(stat -c %h file-000005)" = 1 ] || fail "links again"
    mv -f file-000006 file-000007
    [ "$(<file-000007)" = "$(<$served/a/file-000007)" ] || fail "replaced"
    mv d e
    [ -d e ] && [ ! -e d ] || fail "folder"
    touch e/inside
    mv e d
    [ -e d/inside ] || fail "in a moved folder"
    truncate -s 3 file-000008
    [ "$(stat -c %s file-000008)" = 3 ] || fail "truncated"
    cd /
    diff <(cd $served/a && ls -l) <(cd $mounts/a && ls -l)
    umount_folder a
}

# What the other qube changes is taken back long before the coherence time is over.
case_changes_in_the_other_qube_are_pushed() {
    names a
    mkdir $served/a/d
    touch $served/a/d/f
    mount_folder a --coherence 60s
    ls -lR $mounts/a >/run/out
    costs a 6 ls -l $mounts/a/d
    echo longer than it was >$served/a/file-000001
    rm $served/a/file-000002
    mv $served/a/file-000003 $served/a/file-000004
    chmod 640 $served/a/file-000005
    echo new >$served/a/new
    touch $served/a/d/g
    within 5 diff <(cd $served/a && ls -l) <(cd $mounts/a && ls -l)
    within 5 test -e $mounts/a/d/g
    [ "$(<$mounts/a/file-000001)" = 'longer than it was' ] || fail "contents"
    [ ! -e $mounts/a/file-000002 ] || fail "removed"
    [ "$(<$mounts/a/file-000004)" = "$(<$served/a/file-000004)" ] || fail "replaced"
    [ "$(<$mounts/a/new)" = new ] || fail "made"
    umount_folder a
}

# A second writer, in the other qube: what it does is seen when the coherence time is over.
case_changes_in_the_other_qube_are_seen_in_time() {
    names a
    mount_folder a --coherence 2s
    ls -l $mounts/a >/run/out
    echo longer than it was >$served/a/file-000001
    rm $served/a/file-000002
    echo new >$served/a/new
    sleep 2.2
    [ "$(<$mounts/a/file-000001)" = 'longer than it was' ] || fail "contents"
    [ ! -e $mounts/a/file-000002 ] || fail "removed"
    [ "$(<$mounts/a/new)" = new ] || fail "made"
    diff <(cd $served/a && ls -l) <(cd $mounts/a && ls -l)
    umount_folder a
}
