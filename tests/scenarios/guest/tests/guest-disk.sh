. /tests/guests.sh
# 64 MiB through a guest's disk, a second disk, one that is read-only; what the guest wrote is what dom0 then reads.
is_gone web && fail "there is no guest"
[ "$(cat /sys/class/block/xvda/size 2>/dev/null)" = "" ] || fail "dom0 has an xvda itself"
on_guest web 900 'DISK END' 'sh /tests/disk.sh' || fail "$(tail -n 1 /tmp/talk.out): $(tail -n 1 /tmp/web.console)"
tr -d '\r' </tmp/web.console | grep -q '^DISK PASS' || fail "$(tr -d '\r' </tmp/web.console | grep '^DISK' | head -n 1)"
xl block-list web | grep -q 51712 || fail "xl block-list: $(xl block-list web)"
pass "$(tr -d '\r' </tmp/web.console | grep '^DISK PASS')"
