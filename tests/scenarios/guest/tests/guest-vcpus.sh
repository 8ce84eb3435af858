. /tests/guests.sh
# A Linux guest with four vCPUs: all come up; xl vcpu-set takes some away and brings them back.
linux_guest many 6 cloud 256 <<'EOT'
vcpus = 3
maxvcpus = 4
EOT
online() {
    on_guest many 60 "ONLINE $1." 'echo "ONLI""NE $(cat /sys/devices/system/cpu/online)."'
}
probe session 240 /tmp/many.console 'Linux version' '' 'guest: up' '' '# ' 'dmesg -n 1' '# ' '' \
    -- xl create -c /tmp/many.cfg >/tmp/talk.out 2>&1 || fail "$(tail -n 1 /tmp/talk.out): $(tail -n 1 /tmp/many.console)"
online 0-2 || fail "after the boot: $(tr -d '\r' </tmp/many.console | grep ONLINE | tail -n 1)"
xl vcpu-set many 1 || fail "xl vcpu-set 1 ended with $?"
await 20 online 0 || fail "after vcpu-set 1: $(tr -d '\r' </tmp/many.console | grep ONLINE | tail -n 1)"
xl vcpu-set --ignore-host many 4 || fail "xl vcpu-set 4 ended with $?"
# the kernel makes them present; to bring them online is udev's part, which this guest has not
on_guest many 90 'PRESENT 0-3.' 'i=0; until grep -q 0-3 /sys/devices/system/cpu/present || [ $i -gt 30 ]; do sleep 1; i=$((i + 1)); done; echo "PRE""SENT $(cat /sys/devices/system/cpu/present)."' ||
    fail "after vcpu-set 4: $(tr -d '\r' </tmp/many.console | grep PRESENT | tail -n 1)"
on_guest many 90 'ASKED' 'for c in 1 2 3; do echo 1 >/sys/devices/system/cpu/cpu$c/online; done; echo ASK""ED' || fail "onlining by hand"
await 30 online 0-3 || fail "after vcpu-set 4: $(tr -d '\r' </tmp/many.console | grep ONLINE | tail -n 1)"
# work on all of them
on_guest many 120 'WORK done' 'for i in 1 2 3 4; do (sha256sum /bin/busybox >/tmp/s$i) & done; wait; cat /tmp/s? | sort -u | wc -l; echo WORK do""ne' ||
    fail "work on four vCPUs: $(tail -n 3 /tmp/many.console | tr '\n' ' ')"
xl vcpu-list many >/tmp/list || fail "xl vcpu-list ended with $?"
[ "$(grep -c '^many' /tmp/list)" = 4 ] || fail "xl vcpu-list: $(tr '\n' ';' </tmp/list)"
xl shutdown -w many || fail "xl shutdown ended with $?"
await 60 is_gone many || fail "60 s after xl shutdown: $(xl list | tail -n 1)"
pass "$(grep -o 'up after .*' /tmp/many.console | head -n 1)"
