# The front end for v9fs alone, and mounting as a person who is not root.
#: memory=2048M seconds=420

case_every_option_on_a_real_mount() {
    "$KERNEL_V9FS" --ignored --test-threads=1
}

# As in a qube: an ordinary user, whom sudo asks nothing. Only the mount step is root's.
case_a_person_mounts_through_sudo() {
    a_person a
    "${person[@]}" "$KERNEL_PROGRAMS/qvm-mount-folder" work $served/a $mounts/a --via "$via" -v
    mountpoint $mounts/a
    "${person[@]}" sh -c "echo text >$mounts/a/file"
    [ "$(<$served/a/file)" = text ]
    # The daemon and the service are the person's.
    for process in $(pids 'qvm-*'); do
        [ "$(stat -c %u /proc/$process)" = 65534 ] || fail "$(tr '\0' ' ' </proc/$process/cmdline) is not the person's"
    done
    "${person[@]}" "$KERNEL_PROGRAMS/qvm-mount-folder" --list | grep "$mounts/a"
    # Root, through sudo, finds the person's daemon and its channel.
    mkdir -p $served/b $mounts/b
    chown 65534:65534 $served/b
    "${person[@]}" sudo -n --preserve-env=QREXEC_STANDIN_SERVICES,QREXEC_STANDIN_LOG,QREXEC_STANDIN_SOURCE,QREXEC_STANDIN_TARGETS \
        "$KERNEL_PROGRAMS/qvm-mount-folder" work $served/b $mounts/b --via "$via"
    [ "$(living)" = 1 ] || fail "$(living) lasting calls"
    umount_folder a
    umount_folder b
    no_person
}
