. /tests/guests.sh
# A guest that needs more than is free, without dom0_mem=: dom0 gives what is missing, lives, and has it back in the end;
# with autoballoon = "off" the guest is refused, and dom0 keeps what it has.
free=$(xl info | awk '$1 == "free_memory" { print $3 }')
before=$(dom0_memory)
tiny_guest big idle </dev/null
sed -i "s/^memory = .*/memory = $((free + 100))/" /tmp/big.cfg
mkdir -p /etc/xen
echo 'autoballoon = "off"' >/etc/xen/xl.conf
xl create /tmp/big.cfg >/tmp/out 2>&1
code=$?
[ $code = 3 ] || fail "without autoballoon xl create ended with $code: $(tail -n 1 /tmp/out)"
grep -q "MiB are free.*xl mem-set 0 [0-9]" /tmp/out || fail "the refusal does not say what is missing and what helps: $(cat /tmp/out)"
dom0_has "$before" || fail "dom0 had $before KiB, and has $(dom0_memory) after the refusal"
rm /etc/xen/xl.conf
create big
now=$(dom0_memory)
gave=$(((before - now) / 1024))
[ $gave -ge 90 ] && [ $gave -lt 300 ] || fail "dom0 had $before KiB, and has $now"
[ "$(memory big)" = $((free + 100)) ] || fail "the guest has $(memory big) MiB of $((free + 100))"
await 10 has_state big b || fail "the guest does not run: $(xl list big | tail -n 1)"
dd if=/dev/zero of=/tmp/fill bs=1M count=16 2>/dev/null && rm /tmp/fill || fail "dom0 has no memory for a file of 16 MiB"
destroy big
xl mem-set 0 "${before}k" || fail "xl mem-set 0 ended with $?"
await 30 dom0_has "$before" || fail "dom0 had $before KiB, and has $(dom0_memory) at the end"
pass "dom0 gave $gave MiB of $((before / 1024)), and has them again"
