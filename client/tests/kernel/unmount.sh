# --unmount, and what --list says of a mount that has lost its other end.
#: memory=1024M seconds=420

program="$KERNEL_PROGRAMS/qvm-mount-folder"

# said TEXT COMMAND...: it ends well with this line.
said() {
    local text=$1 line
    shift
    line=$("$@")
    echo "$line"
    [ "$line" = "$text" ] || fail "not '$text'"
}

# no_unmount CODE WHY HINT PATH
no_unmount() {
    local status=0
    "$program" --unmount "$4" 2>/run/err || status=$?
    cat /run/err
    [ "$status" = "$1" ] || fail "exit code $status, not $1"
    grep -q "^cannot unmount $4: .*$2" /run/err || fail "it does not say '$2'"
    grep -q "^hint: .*$3" /run/err || fail "no hint of '$3'"
}

case_it_unmounts_and_waits_until_the_daemon_has_let_go() {
    mount_folder a
    mount_folder b
    said "unmounted work:$served/a from $mounts/a" "$program" --unmount $mounts/a
    ! mountpoint -q $mounts/a || fail "it is still there"
    ! "$program" --list | grep -F "$mounts/a " || fail "the daemon still has it"
    echo text >$mounts/b/file
    # By another way there.
    ln -sfn $mounts /run/link
    (cd /run && said "unmounted work:$served/b from $mounts/b" "$program" --unmount link/b)
    within 5 no_process_left
    rm /run/link
}

case_a_person_unmounts_through_sudo() {
    a_person a
    "${person[@]}" "$program" work $served/a $mounts/a --via "$via"
    mountpoint $mounts/a
    # The server that they are offered from next time.
    said work "${person[@]}" "$program" --complete-servers
    (
        cd $mounts/a
        ! "${person[@]}" "$program" --unmount $mounts/a 2>/run/err || fail "somebody works there"
    )
    cat /run/err
    grep -q 'is in use' /run/err
    said "unmounted work:$served/a from $mounts/a" "${person[@]}" "$program" --unmount $mounts/a
    no_person
}

case_what_is_not_ours_is_left_alone() {
    mkdir -p $mounts/a $mounts/other /run/folder
    mount -t tmpfs none $mounts/other
    no_unmount 5 'nothing is mounted there' '--list' $mounts/a
    no_unmount 5 'nothing is mounted there' '--list' /run/nowhere
    no_unmount 5 'none is mounted there (type tmpfs)' 'umount(8)' $mounts/other
    mountpoint $mounts/other
    umount $mounts/other
    mount_folder a
    (
        cd $mounts/a
        no_unmount 1 'is in use' 'fuser' $mounts/a
    )
    mountpoint $mounts/a
}

case_a_lost_mount_is_listed_as_such_and_unmounted() {
    mount_folder a
    "$program" --list | tee /run/list
    grep -q "$mounts/a .* ok$" /run/list
    [ "$("$program" --list --json | /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)["mounts"][0]["round_trip_p50_us"] > 0)')" = True ]
    kill -KILL $(pids 'qvm-folder-serv')
    lost() { "$program" --list | tee /run/list | grep -q "$mounts/a .* lost: "; }
    within 10 lost
    cat /run/list
    grep -q '^work .* lost: ' /run/list
    # Mounting over it says what is there, and what to do.
    ! qvm work $served/a $mounts/a 2>/run/err || fail "mounted over a dead mount"
    cat /run/err
    grep -q "hint: .*--unmount $mounts/a" /run/err
    said "unmounted work:$served/a from $mounts/a" "$program" --unmount $mounts/a
    within 5 no_process_left
}
