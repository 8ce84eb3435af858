. /tests/lib.sh
# The network card: a lease, the gateway, and a file.
[ -d /sys/class/net/eth0 ] || fail "no eth0"
# virtio names its interrupts by the device.
lines="eth0|$(basename "$(readlink -f /sys/class/net/eth0/device)")"
before=$(interrupts "$lines")
ip link set lo up
ip link set eth0 up || fail "eth0 cannot be brought up"
udhcpc -i eth0 -n -q -t 5 -T 2 -s /etc/udhcpc >/dev/null 2>&1 || fail "no DHCP lease"
ping -c 3 -W 5 10.0.2.2 >/dev/null || fail "the gateway does not answer"
text=$(probe fetch "10.0.2.2:$(word hematite.port)" /tmp/file) || fail "$text"
size=$(stat -c %s /tmp/file)
sum=$(sha256sum /tmp/file | cut -d' ' -f1)
[ "$sum" = "$(word hematite.sha256)" ] || fail "the file of $size bytes has digest $sum"
after=$(interrupts "$lines")
[ "$after" -gt "$before" ] || fail "no interrupt was counted for $lines"
pass "$size bytes by $(basename "$(readlink -f /sys/class/net/eth0/device/driver)"), $((after - before)) interrupts ($(kinds "$lines"))"
