# For every test: how to end, and what the command line says.

name=$(basename "$0" .sh)

pass() {
    echo "VERDICT $name PASS $*"
    exit 0
}

fail() {
    echo "VERDICT $name FAIL $*"
    exit 0
}

# Prints the value of a word KEY=VALUE of the kernel's command line.
word() {
    tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p" | head -n 1
}

# Says whether there is no hypervisor (the harness checks its scripts so).
is_bare() {
    grep -qw hematite.bare /proc/cmdline
}

# Prints what clocks may differ by over ten seconds, in ms: more where time is the host's, which may be busy otherwise.
clock_tolerance() {
    if grep -qw hematite.real-time /proc/cmdline; then echo 300; else echo 10; fi
}

# Prints the machine's disk, once it is there: IDE's or AHCI's, NVMe's, virtio's.
machine_disk() {
    tries=100
    until ls /dev/sda /dev/nvme0n1 /dev/vda 2>/dev/null | grep .; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

# Prints what kinds the interrupts on the matching lines are.
kinds() {
    grep -E "$1" /proc/interrupts | grep -oE 'PCI-MSI[X]?|xen-pirq|IO-APIC' | sort | uniq -c | awk '{ printf "%s%s %s", n++ ? ", " : "", $1, $2 }'
}

# Prints the number of interrupts so far on the lines of /proc/interrupts that match.
interrupts() {
    grep -E "$1" /proc/interrupts | awk '{ for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }'
}
