. /tests/guests.sh
# A guest with maxmem above memory and without a balloon lives while what it touches stays empty, and ends with a line that
# says why when it does not.
for mode in read-all write-all; do
    tiny_guest "$mode" "$mode" <<'EOT'
maxmem = 128
on_crash = "preserve"
EOT
    create "$mode"
done
await 60 grep -q 'touched 2[0-9]* pages' /var/log/xen/console/guest-read-all.log ||
    fail "what only reads: $(xl list read-all | tail -n 1), $(xl dmesg | tail -n 2 | tr '\n' ' ')"
destroy read-all
id=$(xl domid write-all)
await 60 has_state write-all c || fail "what writes to all of it does not end: $(xl list write-all | tail -n 1)"
xl dmesg | grep -q "d$id: out of memory that is populated on demand: it has .* pages, .* more are to be populated" ||
    fail "no line says why it ended: $(xl dmesg | tail -n 3 | tr '\n' ' ')"
destroy write-all
pass "one that reads lives, one that writes ends"
