. /tests/guests.sh
# Random hypercalls from a guest while dom0 and another guest work: nothing else is disturbed.
tiny_guest neighbour idle </dev/null
create neighbour
cat >/tmp/fuzz.cfg <<'EOF'
name = "fuzz"
type = "pvh"
kernel = "/guests/kernels/fuzz.elf"
memory = 64
on_crash = "preserve"
EOF
calls=$(word hematite.calls)
echo "extra = \"calls=${calls:-1000000}\"" >>/tmp/fuzz.cfg
create fuzz
rounds=0
while ! is_gone fuzz; do
    has_state fuzz '[sc]' && break
    seq 1 1000 | sha256sum >/dev/null
    rounds=$((rounds + 1))
    [ $((rounds % 50)) = 0 ] && echo "fuzz: $rounds rounds of dom0's"
    sleep 1
done
xl dmesg | grep 'test fuzz_hypercalls' >/tmp/out
grep -q Success /tmp/out || fail "no verdict of success: $(tail -n 1 /tmp/out) $(xl list fuzz | tail -n 1)"
is_gone fuzz || destroy fuzz
is_gone neighbour && fail "the neighbour is gone"
has_state neighbour c && fail "the neighbour has crashed"
destroy neighbour
pass "$(xl dmesg | grep 'fuzz made' | tail -n 1 | sed 's/.*made/made/')"
