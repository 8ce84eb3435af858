. /tests/lib.sh
# dom0 stays in xAPIC mode where it is told to: two CPUs, NMIs between them, devices' interrupts.
grep -qw x2apic /proc/cpuinfo && fail "the kernel uses x2APIC mode"
[ "$(cat /sys/devices/system/cpu/online)" = 0-1 ] || fail "CPUs online: $(cat /sys/devices/system/cpu/online)"
# each CPU tells where it is when the other asks it by NMI, which goes by the APIC
for cpu in 0 1; do
    dmesg -c >/dev/null
    taskset $((1 << cpu)) sh -c 'echo l >/proc/sysrq-trigger'
    sleep 1
    for other in 0 1; do
        dmesg | grep -q "NMI backtrace for cpu $other" || fail "asked by CPU $cpu, CPU $other is silent"
    done
done
dmesg -c >/dev/null
# taken away and started again: INIT and STARTUP
echo 0 >/sys/devices/system/cpu/cpu1/online || fail "CPU 1 cannot be taken away"
echo 1 >/sys/devices/system/cpu/cpu1/online || fail "CPU 1 does not come back"
[ "$(cat /sys/devices/system/cpu/online)" = 0-1 ] || fail "CPUs online: $(cat /sys/devices/system/cpu/online)"
pass "two CPUs"
