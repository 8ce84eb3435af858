. /tests/guests.sh
# Disks and cards come and go on a live Linux guest, 50 times; a disk that does not let go stays; Xen's own hotplug scripts
# (vif-bridge, vif-route, block) serve it too; nothing is left.
leftovers >/tmp/before
dd if=/dev/zero of=/tmp/second.img bs=1M count=4 2>/dev/null
mke2fs -F /tmp/second.img >/dev/null 2>&1
linux_guest web 2 cloud 192 <<'EOF'
vif = ["bridge=xenbr0,mac=00:16:3e:00:00:02"]
EOF
create web
talk web 150 'guest: up' '' >/tmp/talk.out 2>&1 || fail "$(tail -n 1 /tmp/talk.out)"
id=$(xl domid web)
# state of the disk or card whose line begins with $2: 4 is connected
disk_is() {
    [ "$(xl block-list web | awk -v vdev="$1" '$1 == vdev { print $4 }')" = "$2" ]
}
card_is() {
    [ "$(xl network-list web | awk -v mac="$1" '$3 == mac { print $5 }')" = "$2" ]
}
xvdb=51728
mac=00:16:3e:00:00:09
spec="file:/tmp/second.img,xvdb,w"
i=0
while [ $i -lt 50 ]; do
    xl block-attach web "$spec" || fail "block-attach $i ended with $?"
    await 10 disk_is $xvdb 4 || fail "disk $i is not connected: $(xl block-list web | tail -n 1)"
    xl network-attach web "mac=$mac,bridge=xenbr0" || fail "network-attach $i ended with $?"
    await 10 card_is $mac 4 || fail "card $i is not connected: $(xl network-list web | tail -n 1)"
    if [ $((i % 10)) = 0 ]; then
        on_guest web 60 "ROUND $i OK" "mount /dev/xvdb /mnt && echo $i >/mnt/round && umount /mnt && ip addr add 10.77.0.9/24 dev eth1 && ip link set eth1 up && ping -c 2 -W 5 -I eth1 10.77.0.1 >/dev/null && echo ROUND $i O\"\"K" ||
            fail "round $i in the guest: $(tail -n 1 /tmp/talk.out): $(tail -n 2 /tmp/web.console)"
    fi
    xl network-detach web $mac || fail "network-detach $i ended with $?"
    xl block-detach web xvdb || fail "block-detach $i ended with $?"
    await 10 disk_is $xvdb '' || fail "disk $i stays: $(xl block-list web | tail -n 1)"
    await 10 card_is $mac '' || fail "card $i stays: $(xl network-list web | tail -n 1)"
    i=$((i + 1))
done
[ "$(losetup -a | grep -c second.img)" = 0 ] || fail "a loop device stays: $(losetup -a)"
mount -t ext2 -o loop /tmp/second.img /mnt || fail "dom0 cannot mount what the guest wrote"
[ "$(cat /mnt/round)" = 40 ] || fail "the guest's last round was $(cat /mnt/round)"
umount /mnt
# One who does not answer keeps its disk, and has it as before.
xl block-attach web "$spec" || fail "block-attach ended with $?"
await 10 disk_is $xvdb 4 || fail "the disk is not connected"
xl pause web
xl block-detach web xvdb 2>/tmp/err && fail "block-detach took the disk of a guest that does not answer"
grep -q 'stays attached' /tmp/err || fail "block-detach says: $(cat /tmp/err)"
xl unpause web
disk_is $xvdb 4 || fail "after the refusal: $(xl block-list web | tail -n 1)"
on_guest web 60 'STILL 40' "mount /dev/xvdb /mnt && echo STIL\"\"L \$(cat /mnt/round); umount /mnt" ||
    fail "the disk does not work after the refusal: $(tail -n 2 /tmp/web.console)"
xl block-detach web xvdb || fail "block-detach afterwards ended with $?"
# A file is a disk by `phy:` too: by a loop device, which goes with it.
loops=$(losetup -a | wc -l)
xl block-attach web "phy:/tmp/second.img,xvdb,w" || fail "phy: of a file: block-attach ended with $?"
await 10 disk_is $xvdb 4 || fail "phy: of a file: not connected: $(xl block-list web | tail -n 1)"
losetup -a | grep -q /tmp/second.img || fail "phy: of a file: no loop device has it: $(losetup -a)"
on_guest web 60 'ROUND 40' "mount /dev/xvdb /mnt && echo ROUN\"\"D \$(cat /mnt/round); umount /mnt" ||
    fail "phy: of a file: the guest reads $(tail -n 2 /tmp/web.console)"
xl block-detach web xvdb || fail "phy: of a file: block-detach ended with $?"
await 10 disk_is $xvdb '' || fail "phy: of a file: stays: $(xl block-list web | tail -n 1)"
[ "$(losetup -a | wc -l)" = "$loops" ] || fail "phy: of a file: a loop device stays: $(losetup -a)"
# Xen's scripts. They ask for a primary address, a word that busybox's ip has not.
mkdir -p /sbin
cat >/sbin/ip <<'EOF'
#!/bin/sh
for word; do
    shift
    [ "$word" = primary ] || set -- "$@" "$word"
done
exec /bin/ip "$@"
EOF
chmod +x /sbin/ip
vif="vif$id"
xl network-attach web "mac=$mac,bridge=xenbr0,script=vif-bridge" 2>/tmp/err || fail "vif-bridge: $(cat /tmp/err)"
await 10 card_is $mac 4 || fail "vif-bridge: not connected: $(xl network-list web | tail -n 1)"
[ "$(ls /sys/class/net/xenbr0/brif | grep -c "^$vif\.")" = 2 ] || fail "vif-bridge: in the bridge are $(ls /sys/class/net/xenbr0/brif)"
xl network-detach web $mac || fail "vif-bridge: network-detach ended with $?"
xl network-attach web "mac=$mac,ip=10.77.1.2,gatewaydev=xenbr0,script=vif-route" 2>/tmp/err || fail "vif-route: $(cat /tmp/err)"
await 10 card_is $mac 4 || fail "vif-route: not connected: $(xl network-list web | tail -n 1)"
ip route | grep -q "^10.77.1.2 dev $vif\." || fail "vif-route: no route to the guest: $(ip route | tr '\n' ';')"
xl network-detach web $mac || fail "vif-route: network-detach ended with $?"
ip route | grep -q 10.77.1.2 && fail "vif-route: the route stays"
xl block-attach web "format=raw,vdev=xvdd,access=w,script=block,target=$(machine_disk)" 2>/tmp/err || fail "block: $(cat /tmp/err)"
await 10 disk_is 51760 4 || fail "block: not connected: $(xl block-list web | tail -n 1)"
on_guest web 60 'SECTORS 327680' "echo SECTOR\"\"S \$(cat /sys/class/block/xvdd/size)" || fail "block: $(tail -n 2 /tmp/web.console)"
xl block-detach web xvdd || fail "block: block-detach ended with $?"
destroy web
rm -f /tmp/second.img
leftovers >/tmp/after
for what in domains loops interfaces; do
    [ "$(grep ^$what /tmp/before)" = "$(grep ^$what /tmp/after)" ] ||
        fail "before: $(grep ^$what /tmp/before), after: $(grep ^$what /tmp/after)"
done
pass "$i rounds, one refusal, three scripts"
