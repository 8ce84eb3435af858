# Prints CPUS OK where both CPUs are up, and each has its timer's ticks and the other's calls while both work; else what is
# wrong.
count() {
    grep -E "[ -]$1\$" /proc/interrupts | awk '{ for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }'
}
[ "$(cat /sys/devices/system/cpu/online)" = 0-1 ] || {
    echo "CPUS online: $(cat /sys/devices/system/cpu/online)"
    exit
}
lines="timer0 timer1 resched0 resched1"
for line in $lines; do
    count $line >/tmp/$line
done
for mask in 1 2; do
    # each wakes the other by a pipe, a hundred times
    (seq 100 | while read -r n; do echo "$n"; sleep 0.01; done | taskset $((3 - mask)) cat >/tmp/n$mask; sha256sum /bin/busybox >/tmp/s$mask) &
    taskset -p $mask $! >/dev/null
done
wait
[ "$(cat /tmp/s1)" = "$(cat /tmp/s2)" ] || echo "CPUS differ: $(cat /tmp/s1 /tmp/s2)"
for line in $lines; do
    new=$(($(count $line) - $(cat /tmp/$line)))
    [ $new -gt 20 ] || {
        echo "CPUS $new interrupts of $line: $(grep -E "$line" /proc/interrupts)"
        exit
    }
done
echo "CPUS OK"
