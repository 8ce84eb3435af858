. /tests/lib.sh
# Ten seconds of sleep last ten seconds.
text=$(probe sleep "$(clock_tolerance)") || fail "$text"
pass "$text"
