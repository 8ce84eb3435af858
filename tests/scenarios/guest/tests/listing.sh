. /tests/lib.sh
# dom0 sees the devices of the bare machine, less what the hypervisor owns.
echo "--- /proc/interrupts" && cat /proc/interrupts
echo "--- /proc/iomem" && cat /proc/iomem
echo "--- /proc/ioports" && cat /proc/ioports
echo "--- PCI"
for dev in /sys/bus/pci/devices/*; do
    id="$(cut -c3- "$dev/vendor"):$(cut -c3- "$dev/device")"
    ids="$ids $id"
    echo "$(basename "$dev") $id class $(cut -c3- "$dev/class") irq $(cat "$dev/irq")"
done
# The host bridge, the ISA bridge, and the disks' controller; power management of PIIX3, SMBus of ICH9.
case "$ids" in
*8086:29c0*) chipset='8086:2918 8086:2922 8086:2930' ;;
*) chipset='8086:1237 8086:7000 8086:7010 8086:7113' ;;
esac
for id in $chipset; do
    case "$ids" in
    *"$id"*) ;;
    *) fail "no PCI device $id among$ids" ;;
    esac
done
for line in rtc acpi; do
    grep -q "$line" /proc/interrupts || fail "no interrupt line of $line"
done
for range in 'System RAM' 'PCI Bus 0000:00'; do
    grep -q "$range" /proc/iomem || fail "/proc/iomem has no $range"
done
if ! is_bare; then
    grep -q serial /proc/ioports && fail "dom0 has the serial port, which the hypervisor owns"
fi
pass "$(echo "$ids" | wc -w) PCI devices"
