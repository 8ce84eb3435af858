. /tests/lib.sh
# The kernel complained about nothing but the CPU's known vulnerabilities.
bad=$(dmesg | grep -E 'BUG:|WARNING|Call Trace|soft lockup|unstable|nobody cared' |
    grep -vE 'RETBleed|Spectre|MDS|TAA|L1TF|SRBDS|MMIO Stale Data|GDS|RFDS|ITS|VMSCAPE|Speculative Return Stack')
[ -z "$bad" ] || fail "$(echo "$bad" | head -n 1)"
pass "$(dmesg | wc -l) lines"
