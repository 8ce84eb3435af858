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

# Prints the number of interrupts so far on the lines of /proc/interrupts that match.
interrupts() {
    grep -E "$1" /proc/interrupts | awk '{ for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }'
}
