# What the service's sandbox lets through and what it does not, with mounts below the folder, which need a
# right to mount that the native tests do not have. The kernel in here has user namespaces and no Landlock.
#: memory=2048M seconds=300

user=1000

# serve_as_user [OPTION...]: the services run as an ordinary user.
serve_as_user() {
    local name
    mkdir -p /run/user/$user && chown $user:$user /run/user/$user && chmod 700 /run/user/$user
    for name in sharedfolders.Mount sharedfolders.MountReadOnly; do
        cat >$services/$name <<SCRIPT
#!/bin/sh
export XDG_RUNTIME_DIR=/run/user/$user
exec setpriv --reuid $user --regid $user --clear-groups "$KERNEL_PROGRAMS/qvm-folder-server" $*
SCRIPT
    done
}

# serve_as_root OPTION...: the services run as root, with options.
serve_as_root() {
    local name
    for name in sharedfolders.Mount sharedfolders.MountReadOnly; do
        printf '#!/bin/sh\nexec "%s/qvm-folder-server" %s\n' "$KERNEL_PROGRAMS" "$*" >$services/$name
    done
}

# own NAME...: served folders of the user's.
own() {
    local name
    for name; do mkdir -p $served/$name && chown $user:$user $served/$name; done
}

as_user() {
    setpriv --reuid $user --regid $user --clear-groups "$@"
}

case_an_ordinary_users_folder_with_mounts_below_it() {
    serve_as_user
    own a
    as_user mkdir $served/a/below $served/a/later
    mount -t tmpfs -o uid=$user,gid=$user tmpfs $served/a/below
    as_user mkdir $served/a/below/deep
    mount -t tmpfs -o uid=$user,gid=$user tmpfs $served/a/below/deep
    as_user sh -c "echo inner >$served/a/below/inner; echo deepest >$served/a/below/deep/file"
    echo other >$served/a/other && chmod 644 $served/a/other
    mount_folder a
    [ "$(<$mounts/a/below/inner)" = inner ] && [ "$(<$mounts/a/below/deep/file)" = deepest ]
    echo text >$mounts/a/below/deep/new
    [ "$(<$served/a/below/deep/new)" = text ]
    [ "$(stat -c %u:%g $served/a/below/deep/new)" = $user:$user ]
    # Other owners are nobody in particular.
    [ "$(stat -c %u:%g $mounts/a/other)" = 65534:65534 ] && [ "$(<$mounts/a/other)" = other ]
    [ "$(stat -c %u:%g $mounts/a/below)" = $user:$user ]
    # Links and modes are as on the disk, though nothing can be executed or followed there.
    ln -s /etc/passwd $mounts/a/link && [ "$(readlink $mounts/a/link)" = /etc/passwd ]
    echo '#!/bin/sh' >$mounts/a/script && chmod 4755 $mounts/a/script
    [ "$(stat -c %a $mounts/a/script)" = 4755 ] && [ "$(stat -c %a $served/a/script)" = 4755 ]
    # What is mounted later is not seen.
    mount -t tmpfs tmpfs $served/a/later
    echo hidden >$served/a/later/file
    [ ! -e $mounts/a/later/file ]
    umount $served/a/later
    umount_folder a
    within 5 no_process_left
    umount $served/a/below/deep
    umount $served/a/below
}

case_attributes_without_proc() {
    serve_as_user
    own a
    insmod /usr/lib/uml/modules/"$(uname -r)"/kernel/drivers/block/brd.ko rd_nr=1 rd_size=65536
    mkfs.ext4 -q /dev/ram0
    mount /dev/ram0 $served/a
    chown $user:$user $served/a
    as_user mkdir $served/a/d
    as_user touch $served/a/f
    mount_folder a
    for name in f d; do
        setfattr -n user.one -v value $mounts/a/$name
        [ "$(getfattr --only-values -n user.one $served/a/$name)" = value ]
        [ "$(getfattr --only-values -n user.one $mounts/a/$name)" = value ]
        getfattr $mounts/a/$name | grep -q user.one
        setfattr -x user.one $mounts/a/$name
        ! getfattr -n user.one $served/a/$name 2>/dev/null
    done
    umount_folder a
    within 5 no_process_left
    umount $served/a
}

case_everything_forbidden_fails() {
    chmod 1777 "$TMPDIR"
    "$KERNEL_PROGRAMS/qvm-folder-server" --check-sandbox | tee /run/check
    grep -q '^namespaces, read-write, file capabilities:' /run/check
    [ "$(grep -c '  ok ' /run/check)" -gt 150 ]
    as_user "$KERNEL_PROGRAMS/qvm-folder-server" --check-sandbox | tee /run/check
    [ "$(grep -c '  ok ' /run/check)" -gt 100 ]
    ! grep FAILED /run/check
    [ -z "$(ls "$TMPDIR")" ]
}

case_later_folders_of_an_ordinary_user() {
    serve_as_user
    own a b c
    as_user mkdir $served/b/below
    mount -t tmpfs -o uid=$user,gid=$user tmpfs $served/b/below
    as_user sh -c "echo text >$served/b/below/file; echo text >$served/c/file"
    mount_folder a
    mount_folder b
    mount_folder c --read-only
    [ "$(living)" = 1 ]
    [ "$(<$mounts/b/below/file)" = text ]
    echo new >$mounts/b/below/file
    [ "$(<$served/b/below/file)" = new ]
    [ "$(<$mounts/c/file)" = text ]
    ! echo new >$mounts/c/file || fail "written"
    umount_folder a
    [ "$(<$mounts/b/below/file)" = new ]
    umount_folder b
    umount_folder c
    within 5 no_process_left
    [ -z "$(ls /run/user/$user/qubes-shared-folders/server)" ]
    umount $served/b/below
}

case_root_acts_as_root_only_where_it_is_told_to() {
    serve a b
    for name in a b; do
        echo private >$served/$name/private
        chown $user:$user $served/$name/private
        chmod 600 $served/$name/private
    done
    serve_as_root
    mount_folder a
    [ "$(stat -c %u $mounts/a/private)" = $user ]
    ! cat $mounts/a/private || fail "read"
    ! chown 0 $mounts/a/private || fail "owned"
    echo own >$mounts/a/own && [ "$(stat -c %u $served/a/own)" = 0 ]
    umount_folder a
    within 5 no_process_left
    serve_as_root --keep-file-capabilities
    mount_folder b
    [ "$(<$mounts/b/private)" = private ]
    chown 0:5 $mounts/b/private && chmod 2640 $mounts/b/private
    [ "$(stat -c %u:%g:%a $served/b/private)" = 0:5:2640 ]
    mount_folder a
    [ "$(<$mounts/a/private)" = private ]
}

case_a_user_without_namespaces_is_refused() {
    serve_as_user
    own a
    most=$(</proc/sys/user/max_user_namespaces)
    echo 0 >/proc/sys/user/max_user_namespaces
    mkdir -p $mounts/a
    refused '[1-9].*' 'cannot be locked into its folder' qvm work $served/a $mounts/a
    serve_as_user --no-sandbox
    mount_folder a
    echo text >$mounts/a/file
    [ "$(<$served/a/file)" = text ]
    umount_folder a
    within 5 no_process_left
    echo "$most" >/proc/sys/user/max_user_namespaces
}
