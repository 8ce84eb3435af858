. /tests/guests.sh
# A Linux guest with maxmem above memory comes down to its memory by itself, and gets all of maxmem when it is asked to.
linux_guest wide 7 cloud 256 <<'EOT'
maxmem = 512
EOT
memory_is() {
    [ "$(xl list wide | awk 'NR == 2 { print $3 }')" = "$1" ]
}
probe session 240 /tmp/wide.console 'Linux version' '' 'guest: up' '' '# ' 'dmesg -n 1' '# ' '' \
    -- xl create -c /tmp/wide.cfg >/tmp/talk.out 2>&1 || fail "$(tail -n 1 /tmp/talk.out): $(tail -n 1 /tmp/wide.console)"
await 60 memory_is 256 || fail "it does not come down: $(xl list wide | tail -n 1)"
xl mem-set wide 512 || fail "xl mem-set 512 ended with $?"
await 60 memory_is 512 || fail "after mem-set 512: $(xl list wide | tail -n 1)"
on_guest wide 60 'TOTAL 4' 'echo "TO""TAL $(awk "/MemTotal/ { print int(\$2 / 1024) }" /proc/meminfo)"' ||
    fail "the guest has $(tr -d '\r' </tmp/wide.console | grep TOTAL | tail -n 1)"
xl mem-set wide 200 || fail "xl mem-set 200 ended with $?"
await 60 memory_is 200 || fail "after mem-set 200: $(xl list wide | tail -n 1)"
destroy wide
pass "256, 512 and 200 MiB"
