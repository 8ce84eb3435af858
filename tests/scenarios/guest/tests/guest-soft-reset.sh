. /tests/guests.sh
# A guest that asks for a soft reset goes on as the same domain, with a console that reaches it; its monitor still sees
# its end. The hypervisor's log says of each end what it was.
tiny_guest again soft-reset </dev/null
create again
id=$(xl domid again)
await 60 grep -q 'goes on after a soft reset' /var/log/xen/console/guest-again.log ||
    fail "it does not go on: $(tail -n 2 /var/log/xen/xl-again.log | tr '\n' ' '); $(xl dmesg | tail -n 2 | tr '\n' ' ')"
await 60 is_gone again || fail "after its power-off: $(xl list | tail -n 1)"
grep -q "domain $id goes on in its next kernel" /var/log/xen/xl-again.log || fail "its monitor: $(tail -n 2 /var/log/xen/xl-again.log)"
xl dmesg >/tmp/log
for line in "ended, soft reset: it said so itself" "soft reset" "ended, power-off: it said so itself" "gone"; do
    [ "$(grep -c "d$id: $line\$" /tmp/log)" = 1 ] || fail "of \"$line\" there are $(grep -c "d$id: $line\$" /tmp/log) lines"
done
# One whose kernel hangs is ended by the watchdog that it set, and kept as its configuration says.
tiny_guest hung watchdog <<'EOF'
on_watchdog = "preserve"
EOF
create hung
id=$(xl domid hung)
await 60 grep -q 'its watchdog expired' /var/log/xen/xl-hung.log || fail "no watchdog: $(tail -n 2 /var/log/xen/xl-hung.log | tr '\n' ' ')"
xl list hung | grep -q -e '---sw-' || fail "it is not kept as shut down: $(xl list hung | tail -n 1)"
xl dmesg | grep -q "d$id: ended, watchdog: its watchdog has expired\$" || fail "no line of it: $(xl dmesg | tail -n 3 | tr '\n' ' ')"
destroy hung
tiny_guest still loop </dev/null
create still
id=$(xl domid still)
destroy still
xl dmesg | grep -q "d$id: ended: destroyed by its toolstack\$" || fail "no line of a destruction: $(xl dmesg | tail -n 3 | tr '\n' ' ')"
pass "as domain $id"
