. /tests/guests.sh
# xenstored is killed under a running guest and started again as at boot: it has every node, and the guest's ring and
# watches go on, as do xenconsoled and the guest's monitor, which connect anew.
is_gone web && fail "there is no guest"
nodes() {
    xenstore-ls -f | grep -v '^/local/domain/0/\(memory\|data\)'
}
id=$(xl domid web)
memory_is() {
    [ "$(xl list web | awk 'NR == 2 { print $3 }')" = "$1" ]
}
nodes >/tmp/nodes.before
[ "$(grep -c "^/local/domain/$id/" /tmp/nodes.before)" -gt 20 ] || fail "the guest has $(grep -c "^/local/domain/$id/" /tmp/nodes.before) nodes"
old=$(cat /run/xen/xenstored.pid)
kill -9 "$old" || fail "xenstored does not run as process $old"
await 10 [ ! -e "/proc/$old" ] || fail "xenstored is still there after kill -9"
xenstored --pid-file /run/xen/xenstored.pid --log-file /var/log/xen/xenstored.log ||
    fail "xenstored ended with $?"
[ "$(cat /run/xen/xenstored.pid)" != "$old" ] || fail "xenstored has no new process"
nodes >/tmp/nodes.after
cmp -s /tmp/nodes.before /tmp/nodes.after || fail "other nodes: $(diff /tmp/nodes.before /tmp/nodes.after | grep '^[-+]/' | head -n 3)"
[ "$(xl list | awk '$1 == "web" { print $2 }')" = "$id" ] || fail "xl list: $(xl list | tail -n 1)"
# As logrotate does: both daemons go on, in new logs.
for log in xenstored.log console/guest-web.log; do
    mv "/var/log/xen/$log" "/var/log/xen/$log.old" || fail "there is no $log"
done
kill -HUP "$(cat /run/xen/xenstored.pid)" "$(cat /run/xen/xenconsoled.pid)" || fail "a daemon is gone"
for log in xenstored.log console/guest-web.log; do
    await 10 [ -e "/var/log/xen/$log" ] || fail "$log is not opened anew"
done
# The guest's own watches, set before, and its requests over the ring: the balloon asks for its target, sysrq for its key.
xl mem-set web 240 || fail "xl mem-set ended with $?"
await 30 memory_is 240 || fail "240 MiB were asked for, and xl list says $(xl list web | tail -n 1)"
xl mem-set web 256 || fail "xl mem-set back ended with $?"
await 30 memory_is 256 || fail "256 MiB were asked for, and xl list says $(xl list web | tail -n 1)"
xl sysrq web s || fail "xl sysrq ended with $?"
on_guest web 60 'Emergency Sync' 'dmesg | grep -i sysrq' || fail "the guest has not seen the sysrq: $(tail -n 1 /tmp/talk.out)"
[ -z "$(xenstore-read "/local/domain/$id/control/sysrq" | tr -d '\0')" ] || fail "the guest has not taken the sysrq"
ping -c 2 -W 5 10.77.0.2 >/dev/null || fail "web does not answer dom0"
pass "$(grep -c . /tmp/nodes.after) nodes, process $old and its successor"
