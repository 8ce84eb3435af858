. /tests/lib.sh
# What the kernel learnt from XENVER_*.
is_bare && pass bare
h=/sys/hypervisor
[ "$(cat $h/type)" = xen ] || fail "type $(cat $h/type)"
version="$(cat $h/version/major).$(cat $h/version/minor)$(cat $h/version/extra)"
case "$version" in
4.17*) ;;
*) fail "version $version" ;;
esac
features=$(cat $h/properties/features)
# Bits of XENFEAT_*: dom0 (11), and what a PVH guest needs: auto-translated physmap (2), HVM callback vector (8),
# HVM pirqs (10) absent.
bits=$((0x$(echo "$features" | tail -c 9)))
for bit in 2 8 11; do
    [ $(((bits >> bit) & 1)) = 1 ] || fail "features $features: bit $bit is off"
done
grep -q hvc0 /sys/class/tty/console/active || fail "the console is $(cat /sys/class/tty/console/active)"
pass "$version features $features"
