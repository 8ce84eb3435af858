. /tests/guests.sh
# What xl does to a running guest: pause, unpause, rename, memory, sysrq, reboot, shutdown.
is_gone web && fail "there is no guest"
id=$(xl domid web)
memory_is() {
    [ "$(xl list web | awk 'NR == 2 { print $3 }')" = "$1" ]
}
is_another() {
    now=$(xl domid web 2>/dev/null) && [ "$now" != "$1" ]
}
xl pause web || fail "xl pause ended with $?"
has_state web '^.[b-]p' || fail "paused, and xl list says $(state web)"
before=$(cpu_time web)
sleep 1
[ "$(cpu_time web)" = "$before" ] || fail "a paused guest used CPU time"
xl unpause web || fail "xl unpause ended with $?"
has_state web '^..p' && fail "unpaused, and xl list says $(state web)"
xl rename web site || fail "xl rename ended with $?"
[ "$(xl domid site)" = "$id" ] || fail "after the rename site is $(xl domid site)"
xl rename site web || fail "renaming it back ended with $?"
xl mem-set web 200 || fail "xl mem-set down ended with $?"
await 20 memory_is 200 || fail "200 MiB were asked for, and xl list says $(xl list web | tail -n 1)"
xl mem-set web 256 || fail "xl mem-set up ended with $?"
await 20 memory_is 256 || fail "256 MiB were asked for, and xl list says $(xl list web | tail -n 1)"
xl vcpu-list web | grep -qE "^web +$id +0 +[0-9-]+ +[-rb]{3} +[0-9.]+ +" || fail "xl vcpu-list: $(xl vcpu-list web | tail -n 1)"
xl uptime web | grep -qE "^web +$id +" || fail "xl uptime: $(xl uptime web)"
xl sysrq web h || fail "xl sysrq ended with $?"
on_guest web 60 'HELP :' 'dmesg | grep -i sysrq' || fail "the guest has not seen the sysrq"
xl trigger web nmi || fail "xl trigger ended with $?"
# Linux says where it came from by a port that is not there: "for reason ff", or "for unknown reason"
on_guest web 60 'on CPU 0' 'dmesg | grep -i nmi' || fail "the guest has not seen the NMI"
xl list -l web >/tmp/out || fail "xl list -l ended with $?"
grep -q '^    {$' /tmp/out || fail "xl list -l has another layout"
xl reboot web || fail "xl reboot ended with $?"
await 60 is_another "$id" || fail "60 s after xl reboot the guest is still number $id"
# the name comes before the console does
await 20 xenstore-read "/local/domain/$now/console/tty" || fail "the guest has no console after the reboot"
talk web 120 'guest: up' '' >/tmp/talk.out 2>&1 ||
    fail "after the reboot: $(tail -n 1 /tmp/talk.out); at the console: $(tail -n 1 /tmp/web.console)"
[ "$(xenstore-read "/local/domain/$(xl domid web)/device/vif/0/mac")" = 00:16:3e:00:00:02 ] || fail "another MAC after the reboot"
xl shutdown -w web || fail "xl shutdown ended with $?"
await 60 is_gone web || fail "60 s after xl shutdown: $(xl list | tail -n 1)"
pass "as domain $id and its successor"
