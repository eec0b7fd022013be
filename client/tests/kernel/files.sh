# What people do with files, through a mount and checked against the served folder itself.
#: memory=2048M seconds=420 reference=yes diod=rename,open_files,links,appends,truncation,mmap,locks,locks_local,holes,attributes

case_tar() {
    mount_folder a
    help tree /mnt/tree 300 4
    tar -C /mnt/tree -cf $mounts/a/tree.tar .
    mkdir $mounts/a/out
    tar -C $mounts/a/out -xf $mounts/a/tree.tar
    same /mnt/tree $served/a/out
    tar -C $mounts/a/out -cf - . | tar -C /mnt/tree -df -
    rm -rf $mounts/a/out /mnt/tree
    [ "$(ls -A $served/a)" = tree.tar ]
}

case_rename() {
    mount_folder a
    cd $mounts/a
    echo one >one
    mkdir -p d/e
    echo in >d/e/in
    mv one two
    [ ! -e one ] && [ "$(<two)" = one ]
    mv two d/two
    mv d D
    [ "$(<D/e/in)" = in ] && [ "$(<D/two)" = one ] && [ ! -e d ]
    echo other >other
    mv -f other D/two
    [ "$(<$served/a/D/two)" = other ]
    mkdir full && touch full/x && mkdir empty
    mv -T empty D/empty
    ! mv -T D/empty full 2>/dev/null
    ! mv D D/e/below 2>/dev/null
    cd /
}

# shellcheck disable=SC2034 # read by common.sh
diod_lacks_open_files="diod finds an open file by its name"
case_open_files() {
    mount_folder a
    help opened $served/a
    rm -rf ${served:?}/a/*
    help opened $mounts/a
}

case_links() {
    mount_folder a
    cd $mounts/a
    echo text >file
    ln file hard
    ln -s file soft
    ln -s /etc/hostname absolute
    ln -s "$(printf 'a%.0s' {1..3000})" long
    [ "$(stat -c %h file)" = 2 ] && [ "$(stat -c %i file)" = "$(stat -c %i hard)" ]
    echo more >>hard
    [ "$(tail -n 1 soft)" = more ]
    [ "$(readlink soft)" = file ] && [ "$(readlink absolute)" = /etc/hostname ]
    [ "$(readlink long | wc -c)" = 3001 ]
    [ "$(readlink $served/a/absolute)" = /etc/hostname ]
    rm file
    [ "$(stat -c %h hard)" = 1 ] && [ ! -e soft ] && [ -L soft ]
    ! ln hard hard 2>/dev/null
    cd /
}

case_appends() {
    mount_folder a
    help appends $served/a/reference 200
    help appends $mounts/a/file 200
    echo tail >>$served/a/file
    echo again >>$mounts/a/file
    [ "$(tail -n 2 $served/a/file)" = $'tail\nagain' ]
}

case_truncation() {
    mount_folder a
    cd $mounts/a
    head -c 100000 /dev/urandom >$served/a/file
    cp $served/a/file /mnt/copy
    truncate -s 50000 file /mnt/copy
    cmp file $served/a/file && cmp file /mnt/copy
    truncate -s 200000 file /mnt/copy
    cmp file /mnt/copy && [ "$(stat -c %s $served/a/file)" = 200000 ]
    echo short >file
    [ "$(<$served/a/file)" = short ]
    : >file
    [ ! -s $served/a/file ]
    cd /
}

case_mmap() {
    mount_folder a --cache mmap
    head -c 300000 /dev/urandom >$served/a/file
    help map $mounts/a/file read
    help map $mounts/a/file write
    [ "$(tail -c 3 $served/a/file)" = end ]
    [ "$(head -c 10 $served/a/file | tail -c 5)" = hello ]
    umount_folder a
    mount_folder a --cache none
    help map $mounts/a/file read
    ! help map $mounts/a/file write 2>/dev/null
}

case_locks() {
    mount_folder a
    echo 0123456789 >$served/a/file
    help locks $mounts/a/file $mounts/a/file
    help flocks $mounts/a/file
}

# shellcheck disable=SC2034 # read by common.sh
diod_lacks_locks_local="diod locks with flock(2), which record locks do not see"
case_locks_local() {
    mount_folder a
    echo 0123456789 >$served/a/file
    help locks $mounts/a/file $served/a/file
    help locks $served/a/file $mounts/a/file
}

case_names() {
    mount_folder a
    help names $mounts/a make
    help names $served/a check
    mount_folder b
    cp -r $mounts/a/. $mounts/b
    help names $served/b check
    find $mounts/a -mindepth 1 -delete
    [ -z "$(ls -A $served/a)" ]
}

case_holes() {
    mount_folder a
    help sparse $mounts/a/big make
    help sparse $served/a/big check
    help sparse $mounts/a/big check
    # The holes stayed holes: far less is stored than the size.
    [ "$(stat -c %b $served/a/big)" -lt 10000 ]
    cp --sparse=always $mounts/a/big $mounts/a/copy &
    sleep 1
    kill $!
    rm -f $mounts/a/copy $mounts/a/big
    [ -z "$(ls -A $served/a)" ]
}

case_folder_of_many_names() {
    mount_folder a
    help folder $mounts/a 700
    rm -rf $mounts/a/*
    rmdir $mounts/a 2>/dev/null || true
    [ -z "$(ls -A $served/a)" ]
}

case_attributes() {
    mount_folder a
    cd $mounts/a
    echo text >file
    chmod 4751 file
    # v9fs has whole seconds when it sets times, and all of them when it reads.
    touch -d '2001-02-03 04:05:06 UTC' file
    [ "$(stat -c '%a %Y' $served/a/file)" = '4751 981173106' ]
    [ "$(stat -c '%a %y' $served/a/file)" = "$(stat -c '%a %y' file)" ]
    touch -d '2001-02-03 04:05:06.123456789 UTC' $served/a/other
    [ "$(TZ=UTC stat -c %y other)" = '2001-02-03 04:05:06.123456789 +0000' ]
    mkdir -m 700 d
    [ "$(stat -c '%a %F' d)" = '700 directory' ]
    [ "$(stat -c '%a %s %u %g' $served/a/file)" = "$(stat -c '%a %s %u %g' file)" ]
    [ "$(df --output=size . | tail -n 1)" = "$(df --output=size $served/a | tail -n 1)" ]
    ! cat missing 2>/dev/null
    ! mkdir d 2>/dev/null
    ! rmdir missing 2>/dev/null
    touch d/x && ! rmdir d 2>/dev/null
    sync -f file
    cd /
}
