# What goes wrong before a folder is mounted: a sentence, an exit code, and nothing left behind.
#: memory=1024M seconds=300

# service SCRIPT: what answers the calls from now on.
service() {
    printf '#!/bin/sh\n%s\n' "$1" >$services/sharedfolders.Mount
}

# attempt [OPTION...]: an ordinary mount, expected to fail.
attempt() {
    mkdir -p $served/a $mounts/a
    qvm work $served/a $mounts/a "$@"
}

case_refused_by_policy() {
    export QREXEC_STANDIN_POLICY=/run/policy
    printf 'sharedfolders.Mount +-mnt-served-no client work deny\n* * * * allow\n' >$QREXEC_STANDIN_POLICY
    serve no
    mkdir -p $mounts/a
    refused 126 'refused|denied' qvm work $served/no $mounts/a
    mount_folder yes
    # The channel is there now: dom0 is asked about every folder all the same.
    status=0
    qvm work $served/no $mounts/a 2>/run/err || status=$?
    cat /run/err
    [ $status = 126 ]
    ! mountpoint -q $mounts/a
    [ "$(ls $mounts/yes | wc -l)" = 0 ]
}

case_no_such_qube() {
    mkdir -p $mounts/a
    # qrexec tells a qube that there is not from a refused one in nothing.
    refused '(3|126)' 'qube|refused' qvm wrok $served/a $mounts/a
}

case_service_missing() {
    rm $services/sharedfolders.Mount
    refused 127 'install|service' attempt
}

case_folder_missing() {
    mkdir -p $mounts/a
    refused 4 'folder|directory' qvm work $served/missing $mounts/a
}

case_folder_is_a_file() {
    mkdir -p $mounts/a
    echo >$served/file
    refused 4 'folder|directory' qvm work $served/file $mounts/a
}

case_folder_behind_a_link() {
    mkdir -p $mounts/a $served/a
    ln -s a $served/link
    refused 4 'folder|link' qvm work $served/link $mounts/a
    refused 4 'folder|link' qvm work $served/link/. $mounts/a
}

case_folder_missing_beside_a_live_mount() {
    mount_folder a
    echo text >$mounts/a/file
    mkdir -p $mounts/b
    status=0
    qvm work $served/missing $mounts/b 2>/run/err || status=$?
    cat /run/err
    [ $status = 4 ]
    ! mountpoint -q $mounts/b
    [ "$(<$mounts/a/file)" = text ]
}

case_mount_point_missing() {
    serve a
    refused 5 'mount point|no such' qvm work $served/a $mounts/missing
    [ ! -s $log ] || fail "a call was made in vain"
}

case_mount_point_is_a_file() {
    serve a
    echo >/run/file
    refused 5 'mount point|folder' qvm work $served/a /run/file
}

case_mount_point_not_empty_is_fine() {
    mkdir -p $mounts/a
    echo >$mounts/a/below
    mount_folder a
    [ ! -e $mounts/a/below ]
    umount_folder a
    rm $mounts/a/below
}

case_msize_out_of_range() {
    refused 6 '4096' attempt --msize 4095
    refused 6 '4096' attempt --msize 2M
    refused '(2|6)' 'msize' attempt --msize lots
}

case_msize_is_what_the_mount_has() {
    mount_folder a --msize 64K
    grep " $mounts/a 9p .*msize=65536" /proc/mounts
    mount_folder b --msize 4096
    grep " $mounts/b 9p .*msize=4096" /proc/mounts
    head -c 100000 /dev/urandom >$served/b/file
    cmp $served/b/file $mounts/b/file
    "$KERNEL_PROGRAMS/qvm-mount-folder" --list >/run/list
    cat /run/list
    grep "$mounts/a" /run/list | grep -Eq '65,?536|64K'
    grep "$mounts/b" /run/list | grep -Eq '4,?096|4K'
}

case_via_missing() {
    mkdir -p $mounts/a
    refused '(2|125)' 'missing.*no such program' "$KERNEL_PROGRAMS/qvm-mount-folder" work /srv $mounts/a --via /usr/bin/missing
}

case_garbage() {
    service 'exec head -c 200000 /dev/urandom'
    refused 10 'protocol' attempt
    service 'exec head -c 200000 /dev/zero'
    refused 10 'protocol' attempt
    service 'echo "user@work: command not found"; exit 1'
    refused '(1|10|11)' 'work' attempt
}

case_endless_garbage() {
    service 'exec cat /dev/zero'
    refused 10 'protocol' attempt
}

case_closes_in_the_middle() {
    # The real server's bytes, cut: within its preface, within its first answers, within the mount's.
    for count in 1 9 30 60 90 120 160; do
        echo "cut after $count bytes"
        service "exec /usr/bin/python3 '$help' cut $count '$KERNEL_PROGRAMS/qvm-folder-server'"
        start=$(now_ms)
        refused 11 'ended|closed|soon' attempt
        # Long before any time limit: an end is an end.
        [ $(($(now_ms) - start)) -lt 10000 ] || fail "only after $(($(now_ms) - start)) ms"
    done
}

case_stops_in_the_middle() {
    # In the preface, in the answer to the first stream, and in each of the first 9P messages.
    for count in 5 40 100 130 160 200 240; do
        echo "silent after $count bytes"
        service "'$KERNEL_PROGRAMS/qvm-folder-server' | stdbuf -o0 head -c $count; exec sleep 100"
        refused 12 'answer|stopped' attempt --timeout 3
    done
}

case_never_answers_and_is_interrupted() {
    service 'exec sleep 100'
    mkdir -p $served/a $mounts/a
    for signal in INT TERM; do
        # A background process of a script has SIGINT ignored; this one is to take it.
        /usr/bin/python3 "$help" defaults "$KERNEL_PROGRAMS/qvm-mount-folder" work $served/a $mounts/a --via "$via" --timeout 1 2>/run/err &
        caller=$!
        within 20 grep 'waiting for work' /run/err
        # Longer than --timeout: that one begins with the first byte.
        sleep 2
        ! gone $caller || fail "it did not wait"
        kill -$signal $caller
        status=0
        wait $caller || status=$?
        cat /run/err
        # By its own hand, or by the signal itself.
        [[ $status =~ ^(130|143)$ ]] || fail "exit code $status"
        within 5 no_process_left
        ! mountpoint -q $mounts/a
    done
}

case_server_dies_at_once() {
    service 'kill -9 $$'
    refused '(1|10|11|125)' 'work' attempt
}

case_stderr_is_escaped() {
    service "printf 'evil \\033]0;title\\007\\033[2J words\\n' >&2; exit 1"
    refused '(1|10|11)' 'evil.*words' attempt
    ! grep -q $'[\001-\010\013-\037]' /run/err || fail "control characters reached the terminal"
}

case_version() {
    # The same preface with another version number: `help version` finds it behind the magic.
    service "'$KERNEL_PROGRAMS/qvm-folder-server' | /usr/bin/python3 '$help' version"
    refused 9 'version' attempt
}

case_noise_before_the_preface_is_skipped() {
    export QREXEC_STANDIN_NOISE=$'Welcome to work\n\033[1mhello\033[0m\n'
    mount_folder a
    echo text >$mounts/a/file
    [ "$(<$served/a/file)" = text ]
}

case_too_much_noise() {
    service "head -c 70000 /dev/zero | tr '\\0' n; exec '$KERNEL_PROGRAMS/qvm-folder-server'"
    refused 10 'protocol' attempt
    service "head -c 60000 /dev/zero | tr '\\0' n; exec '$KERNEL_PROGRAMS/qvm-folder-server'"
    mount_folder a
}

case_no_right_to_mount() {
    mkdir -p /run/user/65534 $served/a
    mkdir -p -m 777 /run/nobody
    chown 65534:65534 /run/user/65534
    chmod 700 /run/user/65534
    chmod 666 $log
    mkdir -p /run/nobody/m
    chown 65534:65534 /run/nobody/m
    # As in a qube without sudo's right: a PATH in which there is no sudo.
    mkdir -p /run/path
    for program in sh cat head mount umount modprobe kmod; do
        ln -sf "$(command -v $program)" /run/path/$program
    done
    refused 8 'root|sudo' setpriv --reuid 65534 --regid 65534 --clear-groups \
        env PATH=/run/path HOME=/run/nobody XDG_RUNTIME_DIR=/run/user/65534 \
        "$KERNEL_PROGRAMS/qvm-mount-folder" work $served/a /run/nobody/m --via "$via"
}
