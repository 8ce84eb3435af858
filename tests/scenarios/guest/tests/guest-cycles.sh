. /tests/guests.sh
# 200 small guests one after the other: what the host has free, and everything else, returns to the start, exactly.
tiny_guest cycle idle </dev/null
tiny_guest paused idle </dev/null
for warm_up in 1 2 3; do
    create cycle
    destroy cycle
done
leftovers >/tmp/before
cycles=$(word hematite.cycles)
n=0
while [ $n -lt "${cycles:-200}" ]; do
    create cycle
    destroy cycle
    n=$((n + 1))
    [ $((n % 20)) = 0 ] && echo "cycles: $n"
done
leftovers >/tmp/after
cmp -s /tmp/before /tmp/after || fail "$(diff /tmp/before /tmp/after | grep '^[<>+-]' | tr '\n' ' ')"
pass "$n cycles, $(tr '\n' ' ' </tmp/after)"
