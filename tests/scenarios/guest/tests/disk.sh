. /tests/lib.sh
# 64 MiB through the machine's disk and its interrupts, read back past the page cache, and again after a reboot.
disk=$(machine_disk) || fail "no disk"
case "$disk" in
/dev/sda) lines='ata_piix|ahci' ;;
/dev/nvme0n1) lines='nvme0q' ;;
/dev/vda) lines=$(basename "$(readlink -f /sys/class/block/vda/device)") ;;
esac
mount -t ext4 "$disk" /mnt || fail "$disk cannot be mounted"
if [ -f /mnt/data.sha256 ]; then
    echo "disk: after the reboot"
    (cd /mnt && sha256sum -c data.sha256 >/dev/null) || fail "after the reboot the data is another"
    umount /mnt
    pass "64 MiB on $disk are the same after a reboot"
fi
before=$(interrupts "$lines")
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
after=$(interrupts "$lines")
[ "$after" -gt "$before" ] || fail "no interrupt was counted for $lines"
cp /tmp/sum /mnt/data.sha256
umount /mnt || fail "the disk cannot be unmounted"
echo "disk: $((after - before)) interrupts ($(kinds "$lines")), rebooting"
reboot -f
sleep 60
fail "the machine did not reboot"
