. /tests/lib.sh
# The kernel is up and knows whom it runs on.
is_bare && pass "bare, $(uname -r)"
[ "$(cat /sys/hypervisor/type)" = xen ] || fail "/sys/hypervisor/type is $(cat /sys/hypervisor/type)"
dmesg | grep -q 'Xen PVH' || fail "the kernel does not say that it runs as a PVH guest"
pass "$(uname -r) on $(grep -m 1 'model name' /proc/cpuinfo | cut -d: -f2)"
