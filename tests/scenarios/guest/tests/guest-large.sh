. /tests/guests.sh
# A Linux guest with memory above 4 GiB and two vCPUs: it sees all of both, and uses memory above; nothing is left of it.
leftovers >/tmp/before
linux_guest large 5 cloud 5000 <<'EOT'
vcpus = 2
EOT
probe session 300 /tmp/large.console 'Linux version' '' 'guest: up' '' '# ' \
    'dmesg -n 1; echo "CPUS $(grep -c ^processor /proc/cpuinfo)"; grep MemTotal /proc/meminfo; grep "System RAM" /proc/iomem; echo REACH""ED' REACHED '' \
    -- xl create -c /tmp/large.cfg >/tmp/talk.out 2>&1 || fail "$(tail -n 1 /tmp/talk.out): $(tail -n 1 /tmp/large.console)"
grep -q 'CPUS 2' /tmp/large.console || fail "not two vCPUs: $(grep CPUS /tmp/large.console)"
total=$(tr -d '\r' </tmp/large.console | awk '$1 == "MemTotal:" { print int($2 / 1024) }' | tail -n 1)
[ "$total" -gt 4800 ] || fail "the guest sees $total MiB of 5000"
grep -qi '^10[0-9a-f]*-.*: System RAM' /tmp/large.console || fail "no RAM above 4 GiB: $(grep 'System RAM' /tmp/large.console | tr '\n' ' ')"
[ "$(xl list large | awk 'NR == 2 { print $3 }')" = 5000 ] || fail "xl list says $(xl list large | tail -n 1)"
# Linux takes pages of the highest addresses first.
on_guest large 240 'SUM ok' 'mkdir /big; mount -t tmpfs -o size=90% none /big; dd if=/dev/zero bs=1M count=200 of=/big/a 2>/dev/null; cmp -n 209715200 /big/a /dev/zero && echo SUM o""k' ||
    fail "memory above does not hold what is written: $(tail -n 3 /tmp/large.console | tr '\n' ' ')"
destroy large
leftovers >/tmp/after
# the first guest makes nodes that stay
for file in /tmp/before /tmp/after; do
    grep -v ^nodes "$file" >"$file.kept"
done
cmp -s /tmp/before.kept /tmp/after.kept || fail "left: $(diff /tmp/before.kept /tmp/after.kept | tr '\n' ' ')"
pass "$total MiB, $(grep -o 'up after .*' /tmp/large.console | head -n 1)"
