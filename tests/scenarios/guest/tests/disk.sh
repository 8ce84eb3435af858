. /tests/lib.sh
# 64 MiB through the IDE disk and its interrupts, read back past the page cache, and again after a reboot.
disk=/dev/sda
i=0
while [ ! -b $disk ]; do
    i=$((i + 1))
    [ $i -lt 100 ] || fail "no $disk"
    sleep 0.1
done
mount -t ext4 $disk /mnt || fail "$disk cannot be mounted"
if [ -f /mnt/data.sha256 ]; then
    echo "disk: after the reboot"
    (cd /mnt && sha256sum -c data.sha256 >/dev/null) || fail "after the reboot the data is another"
    umount /mnt
    pass "64 MiB are the same after a reboot"
fi
before=$(interrupts 'ata_piix')
dd if=/dev/urandom of=/tmp/data bs=1M count=64 2>/dev/null || fail "64 MiB of random data cannot be made"
echo "disk: the data is made"
(cd /tmp && sha256sum data >/tmp/sum)
echo "disk: it is hashed"
cp /tmp/data /mnt/data || fail "writing failed"
rm /tmp/data
sync
echo "disk: it is written"
echo 3 >/proc/sys/vm/drop_caches
(cd /mnt && sha256sum -c /tmp/sum >/dev/null) || fail "what was read back is not what was written"
after=$(interrupts 'ata_piix')
[ "$after" -gt "$before" ] || fail "no interrupt was counted for ata_piix"
cp /tmp/sum /mnt/data.sha256
umount /mnt || fail "the disk cannot be unmounted"
echo "disk: $((after - before)) interrupts, rebooting"
reboot -f
sleep 60
fail "the machine did not reboot"
