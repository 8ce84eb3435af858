. /tests/guests.sh
# The guest is gone: dom0 reads what it wrote, and nothing is left of it.
is_gone web || destroy web
mount -t ext4 "$(machine_disk)" /mnt || fail "the guest's disk cannot be mounted"
(cd /mnt && sha256sum -c data.sha256 >/dev/null 2>&1) || fail "what the guest wrote is not what dom0 reads"
umount /mnt
mount -t ext4 -o loop /tmp/second.img /mnt || fail "the guest's second disk cannot be mounted"
[ "$(cat /mnt/hello)" = "from the guest" ] || fail "the second disk has another file"
umount /mnt
cmp -s /tmp/third.img /tmp/third.copy 2>/dev/null || [ ! -e /tmp/third.copy ] || fail "the read-only disk was written"
rm -f /tmp/second.img /tmp/third.img
leftovers >/tmp/after
# The first guest made dom0 keep some frames; only what grows with each guest counts, which guest-cycles shows.
for what in domains loops interfaces; do
    [ "$(grep ^$what /tmp/before)" = "$(grep ^$what /tmp/after)" ] ||
        fail "before: $(grep ^$what /tmp/before), after: $(grep ^$what /tmp/after)"
done
pass "$(tr '\n' ' ' </tmp/after)"
