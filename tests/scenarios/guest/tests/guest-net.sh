. /tests/guests.sh
# Guest, dom0, a second guest and the emulator's gateway reach each other; 16 MiB each way over TCP arrive intact.
is_gone web && fail "there is no guest"
linux_guest peer 3 cloud 192 <<'EOF'
vif = ["bridge=xenbr0,mac=00:16:3e:00:00:03"]
EOF
create peer
ping -c 3 -W 5 10.77.0.2 >/dev/null || fail "web does not answer dom0"
talk peer 90 'guest: up' '' >/tmp/talk.out 2>&1 || fail "peer: $(tail -n 1 /tmp/talk.out)"
ping -c 3 -W 5 10.77.0.3 >/dev/null || fail "peer does not answer dom0"
for host in 10.77.0.1 10.77.0.3 10.0.2.2; do
    on_guest web 60 'NET OK' "ping -c 2 -W 5 $host >/dev/null && echo NET O\"\"K" || fail "web cannot reach $host"
done
destroy peer
dd if=/dev/urandom of=/tmp/data bs=1M count=16 2>/dev/null
sum=$(sha256sum </tmp/data | cut -c1-64)
nc -l -p 5001 </tmp/data >/dev/null &
on_guest web 120 'NET SUM' 'nc 10.77.0.1 5001 | tee /tmp/data | sha256sum; echo NET SU""M' ||
    fail "dom0 to guest: $(tail -n 1 /tmp/talk.out)"
grep -q "$sum" /tmp/web.console || fail "dom0 to guest: another digest"
# Its input stays open: at its end busybox's nc says so to the other side, which then stops.
mkfifo /tmp/open
nc -l -p 5002 </tmp/open >/tmp/back &
listener=$!
exec 3>/tmp/open
on_guest web 120 'NET SENT' 'nc 10.77.0.1 5002 </tmp/data; echo NET SEN""T' || fail "guest to dom0: $(tail -n 1 /tmp/talk.out)"
wait $listener
exec 3>&-
[ "$(sha256sum </tmp/back | cut -c1-64)" = "$sum" ] || fail "guest to dom0: $(stat -c %s /tmp/back) bytes, another digest"
rm -f /tmp/data /tmp/back /tmp/open
xl network-list web | grep -q 00:16:3e:00:00:02 || fail "xl network-list: $(xl network-list web)"
pass "16 MiB each way"
