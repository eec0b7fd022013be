# A diod of our own service's: what there is of it while a mount lasts, and what is left when that ends.
#: memory=2048M seconds=420

backend=diod

server() {
    pids 'qvm-folder-serv'
}

# How many there are.
diods() {
    pids diod | wc -l
}

case_a_diod_for_each_mount_and_none_after_it() {
    for name in a b c; do
        mount_folder $name
        echo $name >$mounts/$name/file
    done
    [ "$(pids diod | wc -l)" = 3 ] && [ "$(calls)" = 3 ] && [ "$(living)" = 1 ]
    "$KERNEL_PROGRAMS/qvm-mount-folder" --list | tee /run/list
    # diod's own limit.
    [ "$(grep -c 65536 /run/list)" = 3 ]
    for name in a b c; do [ "$(<$served/$name/file)" = $name ]; done
    umount_folder b
    within 2 is 2 diods
    [ "$(<$mounts/a/file)" = a ] && [ "$(<$mounts/c/file)" = c ]
    umount_folder a
    umount_folder c
    within 2 no_process_left
    [ "$(grep -c '^end .* 0$' $log)" = 3 ]
}

case_read_only() {
    serve a
    echo text >$served/a/file
    mount_folder a --read-only
    [ "$(<$mounts/a/file)" = text ]
    ! touch $mounts/a/new 2>/dev/null
    # Not only the client's kernel keeps from writing: the mount that diod has does.
    mount -o remount,rw $mounts/a
    status=0
    touch $mounts/a/new 2>/run/err || status=$?
    cat /run/err
    [ $status = 1 ] && grep -q 'Read-only' /run/err
    ! echo more >>$mounts/a/file 2>/dev/null
    [ "$(ls $served/a)" = file ]
}

case_links_lead_nowhere() {
    mount_folder a
    echo secret >$served/secret
    ln -s ../secret $mounts/a/link
    ln -s "$served" $mounts/a/folder
    [ "$(readlink $served/a/link)" = ../secret ]
    # The client's kernel follows links by itself, in its own tree.
    ! cat $mounts/a/link 2>/dev/null
    rm $mounts/a/link $mounts/a/folder
}

case_a_killed_diod_is_an_io_error_at_once() {
    mount_folder a
    mount_folder b
    head -c 3000000 /dev/urandom >$served/a/file
    help reads $mounts/a/file 60 /run/result &
    local reader=$!
    sleep 0.5
    read -r first < <(pids diod)
    kill -KILL "$first"
    wait $reader
    cat /run/result
    grep -q 'Input/output error' /run/result
    # The other mount, and the channel, go on.
    echo text >$mounts/b/file
    [ "$(<$served/b/file)" = text ] && [ "$(living)" = 1 ]
    ! cat $mounts/a/file 2>/run/err
    grep -q 'Input/output error' /run/err
    umount_folder a
    umount_folder b
    within 2 no_process_left
}

case_a_killed_server_takes_its_diods_along() {
    mount_folder a
    mount_folder b
    kill -KILL $(server)
    within 2 is 0 diods
    umount_folder a
    umount_folder b
    within 2 no_process_left
}

case_readers_can_be_killed_at_any_moment() {
    mount_folder a
    head -c 6000000 /dev/urandom >$served/a/file
    for round in 1 2 3 4 5; do
        cat $mounts/a/file >/dev/null &
        sleep "0.0$round"
        kill -KILL $!
        wait $! || true
    done
    cmp $served/a/file $mounts/a/file
    # While diod answers nothing at all.
    kill -STOP "$(pids diod)"
    cat $mounts/a/file >/dev/null &
    sleep 0.3
    kill -KILL $!
    within 5 gone $!
    kill -CONT "$(pids diod)"
    cmp $served/a/file $mounts/a/file
}

case_no_diod_is_a_refusal_in_words() {
    serve a
    mkdir -p $mounts/a
    mount --bind /dev/null /usr/sbin/diod
    refused 1 'diod is not installed' qvm work $served/a $mounts/a
    umount /usr/sbin/diod
}

# An ordinary user's diod, in namespaces of its own.
case_a_persons_diod() {
    mkdir -p /run/user/65534 /run/person $served/a $mounts/a
    chown 65534:65534 /run/user/65534 /run/person $served/a
    chmod 700 /run/user/65534
    chmod 666 $log
    printf '#!/bin/sh\nexec setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/run/person XDG_RUNTIME_DIR=/run/user/65534 "%s/qvm-folder-server" --backend diod\n' \
        "$KERNEL_PROGRAMS" >$services/sharedfolders.Mount
    mount_folder a
    [ "$(stat -c %u /proc/"$(pids diod)")" = 65534 ]
    echo text >$mounts/a/file
    [ "$(stat -c %u $served/a/file)" = 65534 ]
    echo root >$served/root && chmod 600 $served/root
    ln $served/root $served/a/root
    cat $mounts/a/root 2>/run/err || cat /run/err
    grep -q 'Permission denied' /run/err
    umount_folder a
    within 2 no_process_left
}
