. /tests/lib.sh
# The guest's clock and a clock of the machine's own agree.
# (Not on the bare machine: some Bochs models state a TSC frequency in CPUID that is not theirs, and Linux believes it.)
is_bare && pass bare
[ -e /sys/class/rtc/rtc0/time ] || fail "no rtc0"
text=$(probe rtc "$(clock_tolerance)") || fail "$text"
pass "$text"
