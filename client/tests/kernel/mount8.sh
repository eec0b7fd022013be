# mount(8) and /etc/fstab: mount.qvm as a helper, with this machine's own util-linux.
#: memory=1024M seconds=420

# helpers_folder: /usr/sbin with mount.qvm in it, the rest as it is.
helpers_folder() {
    [ -e /usr/sbin/mount.qvm ] && return
    mkdir -p /run/sbin
    mount --bind /usr/sbin /run/sbin
    mount -t tmpfs -o mode=755 sbin /usr/sbin
    ln -s /run/sbin/* /usr/sbin/
    ln -s "$KERNEL_PROGRAMS/qvm-mount-folder" /usr/sbin/mount.qvm
}

# fstab LINE...: /etc/fstab has these lines.
fstab() {
    printf '%s\n' "$@" >/run/fstab
    chmod 644 /run/fstab
    grep -q ' /etc/fstab ' /proc/mounts || mount --bind /run/fstab /etc/fstab
}

# options PATH: the mount's options, as findmnt shows them.
options() {
    findmnt -n -o VFS-OPTIONS "$1"
}

case_mount_with_a_type() {
    helpers_folder
    mkdir -p "$served/My docs" "$mounts/a b"
    echo text >"$served/My docs/file"
    mount -t qvm -o "via=$via,ro,noexec,noatime,nosymfollow,msize=64K" "work:$served/My docs" "$mounts/a b"
    [ "$(<"$mounts/a b/file")" = text ]
    findmnt "$mounts/a b"
    [ "$(findmnt -n -o SOURCE "$mounts/a b")" = "work:$served/My docs" ]
    [ "$(findmnt -n -o FSTYPE "$mounts/a b")" = 9p ]
    for option in ro nosuid nodev noexec noatime nosymfollow; do
        [[ ,$(options "$mounts/a b"), = *,$option,* ]] || fail "not mounted $option: $(options "$mounts/a b")"
    done
    [[ ,$(findmnt -n -o FS-OPTIONS "$mounts/a b"), = *,msize=65536,* ]] || fail "another msize"
    grep '^start .* work sharedfolders.MountReadOnly+-mnt-served-My_20docs$' $log
    umount "$mounts/a b"
}

case_flags_do_what_they_say() {
    helpers_folder
    serve a
    mkdir -p $mounts/a
    printf '#!/bin/sh\necho ran\n' >$served/a/program
    chmod 755 $served/a/program
    ln -s program $served/a/link
    mount -t qvm -o "via=$via,noexec,nosymfollow" work:$served/a $mounts/a
    ! $mounts/a/program 2>/run/err || fail "noexec, and it ran"
    grep -i 'permission denied' /run/err
    ! cat $mounts/a/link 2>/run/err || fail "nosymfollow, and it was followed"
    grep -i 'symbolic links' /run/err
    umount $mounts/a
    mount -t qvm -o "via=$via" work:$served/a $mounts/a
    [ "$($mounts/a/program)" = ran ]
    grep -q echo $mounts/a/link
    umount $mounts/a
    # The same from this program's own command line.
    qvm work $served/a $mounts/a -o ro,noexec,nosymfollow
    for option in ro noexec nosymfollow; do [[ ,$(options $mounts/a), = *,$option,* ]] || fail "not $option"; done
}

case_a_line_of_fstab() {
    helpers_folder
    mkdir -p "$served/My docs" "$mounts/my docs"
    # shellcheck disable=SC1003 # fstab's own escapes
    fstab "work:$served/My\\040docs $mounts/my\\040docs qvm via=$via,noauto,nofail,_netdev,noexec,x-gvfs-name=Docs,comment=mine 0 0"
    mount "$mounts/my docs"
    echo text >"$mounts/my docs/file"
    [ "$(<"$served/My docs/file")" = text ]
    [ "$(findmnt -n -o SOURCE "$mounts/my docs")" = "work:$served/My docs" ]
    umount "$mounts/my docs"
    within 5 no_process_left
    # noauto: not by -a.
    mount -a
    ! mountpoint -q "$mounts/my docs" || fail "-a mounted what is noauto"
    umount /etc/fstab
}

case_mount_a_mounts_what_is_not_noauto() {
    helpers_folder
    serve a b
    mkdir -p $mounts/a $mounts/b
    fstab "work:$served/a $mounts/a qvm via=$via,defaults 0 0" "work:$served/b $mounts/b qvm via=$via,ro,nofail 0 0"
    mount -a
    mountpoint $mounts/a
    mountpoint $mounts/b
    # Once more does nothing: it sees that they are there.
    mount -a
    [ "$(grep -c " $mounts/" /proc/mounts)" = 2 ] || fail "mounted twice"
    [ "$(living)" = 1 ] || fail "$(living) lasting calls"
    umount -a -t 9p
    within 5 no_process_left
    umount /etc/fstab
}

# With `user` in fstab mount(8) gives up its rights before it starts the helper.
case_a_user_mounts_by_fstab() {
    helpers_folder
    a_person a
    fstab "work:$served/a $mounts/a qvm via=$via,noauto,users,frontend_here 0 0"
    ! "${person[@]}" mount $mounts/a 2>/run/err || fail "an unknown option was taken"
    cat /run/err
    grep -q 'mount option frontend_here is not known' /run/err
    fstab "work:$served/a $mounts/a qvm via=$via,noauto,users 0 0"
    "${person[@]}" mount $mounts/a
    findmnt $mounts/a
    for option in nosuid nodev noexec; do [[ ,$(options $mounts/a), = *,$option,* ]] || fail "not $option"; done
    "${person[@]}" sh -c "echo text >$mounts/a/file"
    [ "$(<$served/a/file)" = text ]
    for process in $(pids 'qvm-*'); do
        [ "$(stat -c %u /proc/$process)" = 65534 ] || fail "$(tr '\0' ' ' </proc/$process/cmdline) is not the person's"
    done
    # umount(8) needs no right for it, though sudo mounted.
    "${person[@]}" umount $mounts/a
    within 5 no_process_left
    # With `user` nobody else may; mount(8) has noted in /run/mount/utab who did.
    fstab "work:$served/a $mounts/a qvm via=$via,noauto,user 0 0"
    "${person[@]}" mount $mounts/a
    ! setpriv --reuid 65533 --regid 65533 --clear-groups umount $mounts/a 2>/run/err || fail "anybody can unmount"
    cat /run/err
    "${person[@]}" umount $mounts/a
    umount /etc/fstab
    no_person
}

case_mistakes_have_a_sentence_and_a_remedy() {
    helpers_folder
    serve a
    mkdir -p $mounts/a
    touch /run/file
    mistakes() {
        local code=$1 pattern=$2 hint=$3
        shift 3
        refused "$code" "^mount.qvm: cannot mount .*: .*$pattern" "$@"
        grep -Eq -- "^hint: .*$hint" /run/err || fail "no hint of '$hint'"
        [ ! -s $log ] || fail "a call was made in vain"
    }
    mistakes 1 'does not say which folder' 'SERVER:/FOLDER' mount -t qvm work $mounts/a
    mistakes 1 'does not say which folder' 'SERVER:/FOLDER' mount -t qvm work: $mounts/a
    mistakes 1 'is a relative path' 'its whole path' mount -t qvm work:srv/a $mounts/a
    mistakes 1 'is no qube' 'as dom0 does' mount -t qvm 1work:/srv $mounts/a
    mistakes 1 'option bogus is not known' 'mount.qvm' mount -t qvm -o bogus work:/srv $mounts/a
    mistakes 1 'option msize needs a value' 'msize=VALUE' mount -t qvm -o msize work:/srv $mounts/a
    mistakes 1 'from 4096 to 1048576' 'auto' mount -t qvm -o msize=2M work:/srv $mounts/a
    mistakes 1 'option cache cannot be "lots"' 'none, readahead' mount -t qvm -o cache=lots work:/srv $mounts/a
    mistakes 1 'option sync is not offered' 'fsync' mount -t qvm -o sync work:/srv $mounts/a
    mistakes 1 'option remount is not offered' 'unmount it' mount -t qvm -o remount,ro work:/srv $mounts/a
    mistakes 1 'no such program' 'PATH' mount -t qvm -o via=/no/such work:/srv $mounts/a
    mistakes 32 'is a regular file' 'folder' mount -t qvm -o "via=$via" work:/srv /run/file
    # mount(8) drops dev and suid as its defaults before a helper sees them, except behind `user`.
    fstab "work:$served/a $mounts/a qvm via=$via,noauto,user,suid 0 0"
    mistakes 1 'option suid is not offered' 'nosuid,nodev' mount $mounts/a
    umount /etc/fstab
    # Sloppy: what is unknown is left out. Fake: nothing is mounted.
    mount -s -f -t qvm -o "bogus,via=$via" work:$served/a $mounts/a
    ! mountpoint -q $mounts/a || fail "-f mounted"
    mount -s -t qvm -o "bogus,via=$via" work:$served/a $mounts/a
    mountpoint $mounts/a
}

case_a_mount_point_in_use_is_said() {
    helpers_folder
    serve a b
    mount_folder a
    : >$log
    for server in "work:$served/a" "work:$served/b"; do
        ! mount -t qvm -o "via=$via" "$server" $mounts/a 2>/run/err || fail "mounted over it"
        cat /run/err
        grep -q "in use: work:$served/a is mounted there" /run/err
        grep -q "^hint: .*--unmount $mounts/a" /run/err
        ! qvm work "${server#*:}" $mounts/a 2>/run/err || fail "mounted over it"
        grep -q "in use: work:$served/a is mounted there" /run/err
    done
    [ ! -s $log ] || fail "a call was made in vain"
}
