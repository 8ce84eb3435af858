. /tests/lib.sh
# The guest's clock and a clock of the machine's own agree.
[ -e /sys/class/rtc/rtc0/time ] || fail "no rtc0"
text=$(probe rtc) || fail "$text"
pass "$text"
