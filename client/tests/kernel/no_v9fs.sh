# A kernel without v9fs.
#: memory=512M seconds=60 modules=none

case_is_said() {
    mkdir -p $served/a $mounts/a
    refused 7 '9p' qvm work $served/a $mounts/a --frontend v9fs
    [ ! -s $log ] || fail "a call was made in vain"
}
