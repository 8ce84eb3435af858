. /tests/guests.sh
# Guests that break rules or take all they can: each is told by its state, and dom0 and a neighbour go on.
tiny_guest neighbour idle </dev/null
create neighbour
goes_on() {
    [ "$(xl domid neighbour 2>/dev/null)" ] || fail "$1: the neighbour is gone"
    has_state neighbour c && fail "$1: the neighbour has crashed"
    begun=$(cut -d. -f1 /proc/uptime)
    seq 1 2000 | sha256sum >/dev/null
    took=$(($(cut -d. -f1 /proc/uptime) - begun))
    [ $took -le 20 ] || fail "$1: dom0 took $took s for a moment's work"
}
# One that asks for what only a toolstack may.
tiny_guest asks none <<'EOF'
kernel = "/guests/kernels/abi-tests.elf"
extra = "test=toolstack_calls_are_not_for_guests"
EOF
sed -i '/domu.elf\|mode=none/d' /tmp/asks.cfg
create asks
await 20 is_gone asks || fail "the guest that asks is $(state asks)"
xl dmesg | grep -q 'test toolstack_calls_are_not_for_guests: Success' ||
    fail "a toolstack's calls from a guest: $(xl dmesg | grep 'test toolstack_calls' | tail -n 1)"
# Those that end by themselves, kept so that their state can be seen.
for mode in crash triple-fault; do
    tiny_guest bad $mode <<'EOF'
on_crash = "preserve"
EOF
    create bad
    await 20 has_state bad c || fail "$mode: xl list says $(state bad)"
    goes_on $mode
    destroy bad
done
tiny_guest bad poweroff <<'EOF'
on_poweroff = "preserve"
EOF
create bad
await 20 has_state bad s || fail "poweroff: xl list says $(state bad)"
destroy bad
# Those that go on for ever.
for mode in loop console-flood log-flood event-flood; do
    tiny_guest bad $mode </dev/null
    create bad
    sleep 3
    has_state bad '[cs]' && fail "$mode: xl list says $(state bad)"
    goes_on $mode
    xenstore-ls >/dev/null || fail "$mode: xenstore does not answer"
    destroy bad
done
# Those that take until they are refused.
for mode in ports grants memory; do
    tiny_guest bad $mode </dev/null
    create bad
    talk bad 60 ', then ' '' idle '' >/tmp/talk.out 2>&1 || fail "$mode: $(tail -n 1 /tmp/talk.out), $(tail -n 1 /tmp/bad.console)"
    taken="$taken$(tr -d '\r' </tmp/bad.console | grep -o '[0-9]* .*, then.*' | head -n 1); "
    goes_on $mode
    destroy bad
done
destroy neighbour
pass "$taken"
