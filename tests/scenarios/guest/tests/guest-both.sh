. /tests/guests.sh
# Two Linux guests and dom0 on one CPU: each gets on, and none starves.
for n in 5 6; do
    linux_guest busy$n $n cloud 192 </dev/null
    create busy$n
done
for n in 5 6; do
    talk busy$n 150 'guest: up' '' '' ' ' '# ' 'while :; do :; done &' >/tmp/talk.out 2>&1 || fail "busy$n: $(tail -n 1 /tmp/talk.out)"
done
first5=$(cpu_time busy5) first6=$(cpu_time busy6)
begun=$(cut -d. -f1 /proc/uptime)
work=0
while [ $(($(cut -d. -f1 /proc/uptime) - begun)) -lt 6 ]; do
    seq 1 1000 | sha256sum >/dev/null
    work=$((work + 1))
done
used5=$(($(cpu_time busy5) - first5)) used6=$(($(cpu_time busy6) - first6))
[ $used5 -ge 10 ] && [ $used6 -ge 10 ] || fail "in 6 s the guests got $used5 and $used6 tenths of a second"
[ $used5 -le $((used6 * 2)) ] && [ $used6 -le $((used5 * 2)) ] || fail "unequal shares: $used5 and $used6 tenths of a second"
[ $work -ge 3 ] || fail "dom0 got through $work rounds"
for n in 5 6; do
    on_guest busy$n 60 'STILL 42' 'echo STI""LL $((6 * 7))' || fail "busy$n does not answer"
    destroy busy$n
done
pass "$used5 and $used6 tenths of a second, dom0 $work rounds"
