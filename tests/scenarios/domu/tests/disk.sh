# 64 MiB to the first disk and back past the page cache; the second disk; the third, which must refuse writes.
fail() {
    echo "DISK FAIL $*"
    echo "DISK END"
    exit 0
}
mount -t ext4 /dev/xvda /mnt || fail "xvda cannot be mounted"
dd if=/dev/urandom of=/mnt/data bs=1M count=64 2>/dev/null || fail "writing failed"
(cd /mnt && sha256sum data >data.sha256)
sync
echo 3 >/proc/sys/vm/drop_caches
(cd /mnt && sha256sum -c data.sha256 >/dev/null) || fail "what was read back is not what was written"
umount /mnt || fail "xvda cannot be unmounted"
mount -t ext4 /dev/xvdb /mnt || fail "xvdb cannot be mounted"
echo "from the guest" >/mnt/hello
umount /mnt || fail "xvdb cannot be unmounted"
[ "$(cat /sys/block/xvdc/ro)" = 1 ] || fail "xvdc does not say that it is read-only"
dd if=/dev/zero of=/dev/xvdc bs=4k count=1 conv=fsync 2>/dev/null && fail "xvdc took a write"
echo "DISK PASS 64 MiB, two more disks"
echo "DISK END"
