. /tests/guests.sh
# A guest with maxmem above memory takes no more of the host than its memory; a Linux guest's balloon gives the rest up, and
# gets all of maxmem when it is asked to.

# taken BEFORE: how many MiB of the host are not free any longer.
taken() {
    echo $((($1 - $(probe free-pages)) / 256))
}

# takes_about BEFORE MIB: that it is so much, and no more than what belongs to a guest beside.
takes_about() {
    now=$(taken "$1")
    [ "$now" -ge "$2" ] && [ "$now" -lt $(($2 + 16)) ]
}

linux_guest wide 7 cloud 256 <<'EOT'
maxmem = 512
EOT
memory_is() {
    [ "$(xl list wide | awk 'NR == 2 { print $3 }')" = "$1" ]
}
# has MIB: what the guest's kernel says that it has, in MiB, and 1 less
has() {
    on_guest wide 60 "HAS $1" 'echo "HA""S $(awk "{ print int((\$1 + 1023) / 1024) }" /sys/devices/system/xen_memory/xen_memory0/info/current_kb)"'
}
before=$(probe free-pages)
xl create -p /tmp/wide.cfg >/tmp/wide.out 2>&1 || fail "xl create: $(tail -n 3 /tmp/wide.out | tr '\n' ' ')"
takes_about "$before" 256 || fail "of the host it takes $(taken "$before") MiB at its start"
created=$(taken "$before")
memory_is 256 || fail "it has another memory: $(xl list wide | tail -n 1)"
probe session 240 /tmp/wide.console 'Linux version' '' 'guest: up' '' '# ' 'dmesg -n 1' '# ' '' \
    -- sh -c 'xl unpause wide; exec xl console wide' >/tmp/talk.out 2>&1 || fail "$(tail -n 1 /tmp/talk.out): $(tail -n 1 /tmp/wide.console)"
await 60 has 256 || fail "its balloon does not come down: $(tr -d '\r' </tmp/wide.console | grep HAS | tail -n 1)"
takes_about "$before" 256 || fail "of the host it takes $(taken "$before") MiB when it is up"
xl mem-set wide 512 || fail "xl mem-set 512 ended with $?"
await 60 memory_is 512 || fail "after mem-set 512: $(xl list wide | tail -n 1)"
await 60 takes_about "$before" 512 || fail "of the host it takes $(taken "$before") MiB after mem-set 512"
on_guest wide 60 'TOTAL 4' 'echo "TO""TAL $(awk "/MemTotal/ { print int(\$2 / 1024) }" /proc/meminfo)"' ||
    fail "the guest has $(tr -d '\r' </tmp/wide.console | grep TOTAL | tail -n 1)"
xl mem-set wide 200 || fail "xl mem-set 200 ended with $?"
await 60 memory_is 200 || fail "after mem-set 200: $(xl list wide | tail -n 1)"
await 60 takes_about "$before" 200 || fail "of the host it takes $(taken "$before") MiB after mem-set 200"
destroy wide

# what was kept of its tables apart
[ "$(taken "$before")" -le 1 ] || fail "$(taken "$before") MiB are not back"
pass "$created MiB at its start, then 512 and 200 MiB"
