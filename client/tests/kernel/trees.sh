# Thousands of files of all sizes, both ways.
#: memory=3072M seconds=900 reference=yes

case_copy() {
    # Not -a: owners, times and xattrs would double the messages; files.sh has those.
    local copy="cp -dR --preserve=mode,links"
    mount_folder a
    help tree /mnt/tree 2000
    $copy /mnt/tree $mounts/a/there
    same /mnt/tree $served/a/there
    echo "copied there"
    $copy $mounts/a/there /mnt/back
    same /mnt/tree /mnt/back
    echo "copied back"
    rm -rf $mounts/a/there
    [ -z "$(ls -A $served/a)" ]
    rm -rf /mnt/back /mnt/tree
}
