. /tests/guests.sh
# Debian's 6.12 kernel as a guest: a shell, both ways, and a clean end by itself.
linux_guest new 4 backports 256 <<'EOF'
vif = ["bridge=xenbr0"]
EOF
probe session 240 /tmp/new.console 'Linux version 6.12' '' 'guest: up' '' '# ' 'echo $((6 * 7))' 42 '' '# ' \
    'ping -c 1 -W 5 10.77.0.1 && echo REACH""ED' REACHED '' '# ' 'poweroff -f' EXIT '' \
    -- xl create -c /tmp/new.cfg >/tmp/talk.out 2>&1 || fail "$(tail -n 1 /tmp/talk.out): $(tail -n 1 /tmp/new.console)"
await 30 is_gone new || fail "after its poweroff: $(xl list | tail -n 1)"
pass "$(grep -o 'up after .*' /tmp/new.console | head -n 1)"
