# Writes to the first disk for ever.
mount -t ext4 /dev/xvda /mnt || exit
while :; do
    dd if=/dev/zero of=/mnt/data bs=64k count=100 conv=fsync 2>/dev/null
done
