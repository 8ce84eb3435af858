. /tests/guests.sh
# A Linux guest whose TSC is emulated knows how fast time goes, by the TSC itself and by the hypervisor's clock.
linux_guest ticks 8 cloud 192 <<'EOT'
tsc_mode = "always_emulate"
EOT
probe session 240 /tmp/ticks.console 'Linux version' '' 'guest: up' '' '# ' 'dmesg -n 1' '# ' '' \
    -- xl create -c /tmp/ticks.cfg >/tmp/talk.out 2>&1 || fail "$(tail -n 1 /tmp/talk.out): $(tail -n 1 /tmp/ticks.console)"
# uptime: the guest's, in seconds
uptime() {
    on_guest ticks 60 'UPTIME ' 'echo "UP""TIME $(cut -d. -f1 /proc/uptime) $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"' ||
        fail "no uptime: $(tail -n 1 /tmp/talk.out)"
    tr -d '\r' </tmp/ticks.console | sed -n 's/.*UPTIME \([0-9][0-9]*\).*/\1/p' | tail -n 1
}
own() {
    cut -d. -f1 /proc/uptime
}
first=$(uptime)
own_first=$(own)
sleep 20
second=$(uptime)
own_second=$(own)
passed=$((second - first))
own_passed=$((own_second - own_first))
off=$((passed - own_passed))
[ "$passed" -ge 15 ] && [ "${off#-}" -le 4 ] || fail "$passed s pass in the guest in $own_passed s"
khz=$(on_guest ticks 60 'TSC ' 'echo "TS""C $(dmesg | grep -o "Detected [0-9.]* MHz" | head -n 1)"' && tr -d '\r' </tmp/ticks.console | grep '^TSC ' | tail -n 1)
destroy ticks
pass "$passed s in $own_passed s; $khz"
