# One channel for all mounts of a pair, and what happens when an end of it goes away.
#: memory=2048M seconds=420

server() {
    pids 'qvm-folder-serv'
}

# ended PID...: all have.
ended() {
    local pid
    for pid; do gone "$pid" || return 1; done
}

case_three_mounts_share_one_call() {
    for name in a b c; do
        serve $name
        head -c 3000000 /dev/urandom >$served/$name/file
        mount_folder $name
    done
    workers=()
    for name in a b c; do
        (for round in 1 2 3; do cp $mounts/$name/file $mounts/$name/copy$round; done) &
        workers+=($!)
    done
    for round in 1 2 3 4 5; do
        within 5 is 1 living
        ! ended "${workers[@]}" || [ "$round" -gt 1 ] || fail "they had ended before they were counted"
        sleep 0.1
    done
    [ "$(calls)" = 3 ] || fail "$(calls) calls"
    for worker in "${workers[@]}"; do wait "$worker"; done
    for name in a b c; do cmp $served/$name/file $served/$name/copy3; done
    # Each call named its own folder.
    for name in a b c; do grep "^start .* work sharedfolders.Mount+-mnt-served-$name\$" $log; done
    "$KERNEL_PROGRAMS/qvm-mount-folder" --list
    [ "$("$KERNEL_PROGRAMS/qvm-mount-folder" --list | grep -c "$mounts/")" = 3 ]
    umount_folder b
    [ "$(living)" = 1 ]
    cmp $served/a/file $mounts/a/file
    umount_folder a
    cmp $served/c/file $mounts/c/file
    umount_folder c
    within 5 no_process_left
    [ "$(living)" = 0 ] && [ "$(grep -c '^end .* 0$' $log)" = 3 ]
}

case_mounts_at_the_same_time_share_one_call() {
    serve a b c d
    mkdir -p $mounts/{a,b,c,d}
    for name in a b c d; do
        qvm work $served/$name $mounts/$name &
    done
    wait
    for name in a b c d; do
        echo $name >$mounts/$name/file
        [ "$(<$served/$name/file)" = $name ]
    done
    [ "$(living)" = 1 ] || fail "$(living) lasting calls"
}

case_two_qubes_have_two_channels() {
    serve a b
    mkdir -p $mounts/a $mounts/b
    qvm work $served/a $mounts/a
    qvm vault $served/b $mounts/b
    [ "$(living)" = 2 ]
    umount_folder a
    echo text >$mounts/b/file
    [ "$(<$served/b/file)" = text ]
    within 5 is 1 living
}

case_the_daemon_has_a_scope_of_its_own_where_systemd_runs() {
    mkdir -p /run/systemd/system /run/bin
    # What systemd-run does with --scope, but for the scope: it becomes the program.
    cat >/run/bin/systemd-run <<'SCRIPT'
#!/bin/sh
echo "$*" >>/run/systemd-run.log
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
SCRIPT
    chmod 755 /run/bin/systemd-run
    PATH=/run/bin:$PATH mount_folder a
    rm -r /run/systemd
    cat /run/systemd-run.log
    grep -q -- '^--scope .*qvm-mount-folder --daemon work' /run/systemd-run.log
    echo text >$mounts/a/file
    [ "$(<$served/a/file)" = text ]
    umount_folder a
    within 5 no_process_left
}

case_the_same_folder_twice() {
    mount_folder a
    mkdir -p $mounts/again
    qvm work $served/a $mounts/again
    echo one >$mounts/a/file
    [ "$(<$mounts/again/file)" = one ]
    umount_folder a
    echo two >$mounts/again/file
    [ "$(<$served/a/file)" = two ]
}

case_a_mount_after_the_last_umount_makes_a_new_channel() {
    for round in 1 2 3; do
        mount_folder a
        echo $round >$mounts/a/file
        umount_folder a
    done
    mount_folder a
    [ "$(<$mounts/a/file)" = 3 ]
    within 2 is 1 living
}

case_the_channel_outlives_the_session_that_made_it() {
    serve a
    mkdir -p $mounts/a
    setsid --wait "$KERNEL_PROGRAMS/qvm-mount-folder" work $served/a $mounts/a --via "$via"
    for pid in $(pids 'qvm-mount*'); do
        [ "$(ps -o tty= -p "$pid")" = '?' ]
        kill -HUP "$pid"
    done
    echo text >$mounts/a/file
    [ "$(<$served/a/file)" = text ]
}

case_read_only() {
    serve a
    echo text >$served/a/file
    mkdir $served/a/d
    mount_folder a --read-only
    grep '^start .* work sharedfolders.MountReadOnly+-mnt-served-a$' $log
    [ "$(<$mounts/a/file)" = text ]
    cd $mounts/a
    # shellcheck disable=SC2016 # for the inner shell
    for attempt in 'echo more >>file' 'echo x >new' 'mkdir new' 'rm file' 'mv file new' 'chmod 600 file' \
        'touch file' 'ln file new' 'ln -s x new' 'rmdir d' 'truncate -s 0 file'; do
        ! /bin/bash -c "$attempt" 2>/run/err || fail "$attempt"
        grep -q 'Read-only file system' /run/err || { cat /run/err; fail "$attempt: another error"; }
    done
    cd /
    [ "$(<$served/a/file)" = text ] && [ "$(ls $served/a)" = $'d\nfile' ]
}

# reader PLACE RESULT: reads until an error; its output is a time and the error's text.
reader() {
    help reads "$1" 60 "$2" &
}

# broken RESULT...: each says an I/O error. How long after $since is shown: a second at the most, unless
# the machine is busy with something else too.
broken() {
    local result when text
    for result; do
        within 10 test -s "$result"
        read -r when text <"$result"
        echo "$result: $text after $((when - since)) ms"
        [ "$text" = "Input/output error" ] || fail "another error"
    done
}

case_a_killed_server_is_an_io_error_at_once() {
    serve a b
    rm -f /run/result.*
    head -c 6000000 /dev/urandom >$served/a/file
    cp $served/a/file $served/b/file
    mount_folder a
    mount_folder b
    reader $mounts/a/file /run/result.1
    reader $mounts/a/file /run/result.2
    reader $mounts/b/file /run/result.3
    truncate -s 1G $served/a/large
    (
        status=0
        cp --sparse=never $mounts/a/large $mounts/b/copy 2>/run/cp.err || status=$?
        echo $status >/run/cp.status
    ) &
    sleep 1
    # In the midst of it, however fast this machine is.
    within 60 test -s $served/b/copy
    victims=$(server)
    since=$(now_ms)
    kill -KILL $victims
    broken /run/result.1 /run/result.2 /run/result.3
    within 10 test -s /run/cp.status
    cat /run/cp.err
    [ "$(</run/cp.status)" != 0 ]
    grep -q 'Input/output error' /run/cp.err
    ! ls $mounts/a 2>/run/err || fail "a dead mount works"
    cat /run/err
    grep -q 'Input/output error' /run/err
    umount_folder a
    umount_folder b
    within 5 no_process_left
    # And the pair can have a new channel.
    mount_folder a
    cmp $served/a/file $mounts/a/file
}

case_a_killed_daemon_is_an_error_at_once() {
    rm -f /run/result.*
    serve a
    head -c 6000000 /dev/urandom >$served/a/file
    mount_folder a
    reader $mounts/a/file /run/result.1
    sleep 1
    kill -KILL $(pids 'qvm-mount*')
    # Nobody is left to answer with EIO: the kernel says what it likes to those that wait.
    within 5 test -s /run/result.1
    cat /run/result.1
    ! grep -q 'no error' /run/result.1
    ! ls $mounts/a 2>/dev/null
    umount_folder a
    within 5 no_process_left
    mount_folder a
    cmp $served/a/file $mounts/a/file
}

case_a_killed_qrexec_is_an_io_error_at_once() {
    rm -f /run/result.*
    serve a
    head -c 6000000 /dev/urandom >$served/a/file
    mount_folder a
    reader $mounts/a/file /run/result.1
    sleep 1
    read -r _ victim _ < <(grep '^start' $log)
    since=$(now_ms)
    kill -KILL "$victim"
    broken /run/result.1
    umount_folder a
    within 5 no_process_left
}

case_a_process_can_be_killed_while_the_server_is_stuck() {
    serve a
    head -c 5000000 /dev/urandom >$served/a/file
    mount_folder a
    ls -l $mounts/a
    stopped=$(server)
    kill -STOP $stopped
    cat $mounts/a/file >/dev/null &
    victim=$!
    ls -l $mounts/a/missing &
    second=$!
    sleep 1
    ! gone $victim && ! gone $second || fail "they did not wait for the server"
    kill -KILL $victim $second
    within 3 ended $victim $second
    kill -CONT $stopped
    # What was flushed does not come back to hurt: the mount goes on.
    for round in 1 2 3; do
        cmp $served/a/file $mounts/a/file
        ls $mounts/a
    done
}

case_readers_can_be_killed_at_any_moment() {
    serve a
    truncate -s 5G $served/a/file
    mount_folder a
    # A large reply is on its way most of the time: its flush must not get past it.
    for pause in 0.1 0.2 0.3 0.11 0.22 0.33 0.4 0.13 0.27 0.35; do
        /usr/bin/python3 "$help" reads $mounts/a/file 60 /run/result.killed &
        sleep 0.5
        sleep $pause
        kill -KILL $!
        within 5 gone $!
        ls -l $mounts/a
    done
}

case_umount_while_the_server_is_stuck() {
    serve a
    mount_folder a
    echo text >$mounts/a/file
    stopped=$(server)
    kill -STOP $stopped
    # umount(8) asks for the mount point's attributes first, and waits for them; umount2(2) for nothing.
    help unmount $mounts/a &
    unmounting=$!
    within 5 gone $unmounting
    # The end of the call ends them anyway; who is quicker does not matter.
    kill -CONT $stopped 2>/dev/null || true
    within 5 no_process_left
}

case_a_socket_serves_other_clients() {
    serve a
    echo text >$served/a/file
    export QVM_SOCKET=/run/nine.socket
    /usr/bin/python3 "$help" defaults "$KERNEL_PROGRAMS/qvm-mount-folder" work $served/a --via "$via" --socket $QVM_SOCKET &
    offering=$!
    within 5 test -S $QVM_SOCKET
    [ "$(stat -c %a $QVM_SOCKET)" = 600 ]
    mkdir -p $mounts/one $mounts/two
    for name in one two; do
        mount -t 9p -o trans=unix,version=9p2000.L,msize=65536,access=any $QVM_SOCKET $mounts/$name
    done
    [ "$(<$mounts/one/file)" = text ]
    echo by two >$mounts/two/new
    [ "$(<$mounts/one/new)" = 'by two' ] && [ "$(<$served/a/new)" = 'by two' ]
    umount $mounts/one
    [ "$(<$mounts/two/new)" = 'by two' ]
    umount $mounts/two
    mount -t 9p -o trans=unix,version=9p2000.L,access=any $QVM_SOCKET $mounts/one
    [ "$(<$mounts/one/file)" = text ]
    [ "$(living)" = 1 ]
    umount $mounts/one
    ! gone $offering || fail "it did not wait to be interrupted"
    kill -INT $offering
    status=0
    wait $offering || status=$?
    echo "exit code $status"
    within 5 no_process_left
    [ ! -e $QVM_SOCKET ]
}

case_a_mount_that_the_owner_ends_gives_eio() {
    serve a b
    for name in a b; do
        echo $name >$served/$name/file
        mount_folder $name
    done
    "$KERNEL_PROGRAMS/qvm-folder-server" --list
    [ "$("$KERNEL_PROGRAMS/qvm-folder-server" --list | grep -c "^client  */mnt/served/[ab]  *rw ")" = 2 ]
    exec 7<$mounts/a/file
    "$KERNEL_PROGRAMS/qvm-folder-server" --disconnect client $served/a
    ! said=$(cat <&7 2>&1) && grep 'Input/output error' <<<"$said"
    ! said=$(ls $mounts/a 2>&1) && grep 'Input/output error' <<<"$said"
    exec 7<&-
    [ "$(<$mounts/b/file)" = b ]
    umount_folder a
    "$KERNEL_PROGRAMS/qvm-folder-server" --disconnect client
    ! said=$(cat $mounts/b/file 2>&1) && grep 'Input/output error' <<<"$said"
    umount_folder b
    within 5 no_process_left
}
