. /tests/guests.sh
# A Linux guest that stays in xAPIC mode: two vCPUs, NMIs between them, one taken away and started again.
linux_guest old 7 cloud 256 <<'EOT'
vcpus = 2
EOT
sed -i 's/^extra = "/&nox2apic /' /tmp/old.cfg
probe session 240 /tmp/old.console 'Linux version' '' 'guest: up' '' '# ' 'dmesg -n 1' '# ' '' \
    -- xl create -c /tmp/old.cfg >/tmp/talk.out 2>&1 || fail "$(tail -n 1 /tmp/talk.out): $(tail -n 1 /tmp/old.console)"
said() {
    tr -d '\r' </tmp/old.console | grep "$1" | tail -n 1
}
on_guest old 60 'ONLINE 0-1, x2apic 0.' 'echo "ONLI""NE $(cat /sys/devices/system/cpu/online), x2apic $(grep -cw x2apic /proc/cpuinfo)."' ||
    fail "after the boot: $(said ONLINE)"
# both tell where they are: the one is asked by the other, by an NMI that goes by the APIC
for cpu in 0 1; do
    on_guest old 60 'TOLD 2.' "dmesg -c >/dev/null; taskset $((1 << cpu)) sh -c 'echo l >/proc/sysrq-trigger'; sleep 1; echo \"TO\"\"LD \$(dmesg | grep -c 'NMI backtrace for cpu').\"" ||
        fail "asked by CPU $cpu: $(said TOLD)"
done
on_guest old 60 'AGAIN 0-1.' 'cd /sys/devices/system/cpu; echo 0 >cpu1/online; echo 1 >cpu1/online; echo "AGA""IN $(cat online)."' ||
    fail "CPU 1 taken away and started again: $(said AGAIN)"
on_guest old 120 'WORK done' 'for i in 1 2; do (sha256sum /bin/busybox >/tmp/s$i) & done; wait; echo WORK do""ne' ||
    fail "work on two vCPUs: $(tail -n 3 /tmp/old.console | tr '\n' ' ')"
xl shutdown -w old || fail "xl shutdown ended with $?"
await 60 is_gone old || fail "60 s after xl shutdown: $(xl list | tail -n 1)"
pass "$(grep -o 'up after .*' /tmp/old.console | head -n 1)"
