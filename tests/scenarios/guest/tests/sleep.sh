. /tests/lib.sh
# Ten seconds of sleep last ten seconds.
text=$(probe sleep) || fail "$text"
pass "$text"
