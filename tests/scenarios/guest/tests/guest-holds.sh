. /tests/guests.sh
# Guests none of whose instructions ends at a boundary where an interrupt gets in: dom0 goes on, and destroys them.
goes_on() {
    begun=$(cut -d. -f1 /proc/uptime)
    seq 1 2000 | sha256sum >/dev/null
    took=$(($(cut -d. -f1 /proc/uptime) - begun))
    [ $took -le 20 ] || fail "$1: dom0 took $took s for a moment's work"
}
for mode in hold-output hold-multicall hold-debug hold-alignment; do
    tiny_guest bad $mode </dev/null
    create bad
    before=$(cpu_time bad)
    sleep 2
    has_state bad '[cs]' && fail "$mode: xl list says $(state bad)"
    goes_on $mode
    used=$(($(cpu_time bad) - before))
    [ $used -ge 5 ] || fail "$mode: it used $used tenths of a second of 20: it does not hold the CPU"
    destroy bad
    told="$told $mode: $used"
done
# Nothing can be delivered, not even a double fault: it ends as a triple fault does.
tiny_guest bad hold-table <<'EOF'
on_crash = "preserve"
EOF
create bad
await 20 has_state bad c || fail "hold-table: xl list says $(state bad)"
goes_on hold-table
destroy bad
pass "tenths of a second used:$told"
