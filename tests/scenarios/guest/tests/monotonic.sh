. /tests/lib.sh
# A million readings of the monotonic clock never step back.
text=$(probe monotonic) || fail "$text"
pass "$text, $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
