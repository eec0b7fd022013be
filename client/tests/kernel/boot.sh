#!/bin/bash
# The first process inside user-mode Linux: makes the machine usable and runs KERNEL_SCRIPT's cases (or
# KERNEL_MAIN instead). The root is the outer machine's, read-only; everything that is written lies in
# tmpfs and goes with the machine.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/run/home LANG=C.UTF-8 TMPDIR=/run/tmp USER=root LOGNAME=root SHELL=/bin/sh
unset XDG_RUNTIME_DIR

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 tmp /mnt
mount -t tmpfs -o mode=755 tmp /run
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/shm "$HOME" && mkdir -m 1777 "$TMPDIR"
mount -t tmpfs shm /dev/shm
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
ip link set lo up

for module in $KERNEL_MODULES; do
    case $module in
        9p)
            for file in fs/netfs/netfs fs/fscache/fscache net/9p/9pnet net/9p/9pnet_fd fs/9p/9p; do
                insmod /usr/lib/uml/modules/"$(uname -r)"/kernel/$file.ko
            done
            ;;
    esac
done

cd /mnt || exit
/bin/bash "${KERNEL_MAIN:-$KERNEL_FOLDER/common.sh}"
echo "@@ end"
sync
halt -f || poweroff -f
