. /tests/guests.sh
# A stock Linux guest boots to a shell on xl console; what is typed arrives, and 1 MiB of output arrives intact.
# The guest, web, stays for the tests that follow.
leftovers >/tmp/before
dd if=/dev/zero of=/tmp/second.img bs=1M count=16 2>/dev/null
mke2fs -F /tmp/second.img >/dev/null 2>&1
cp /tmp/second.img /tmp/third.img
disk=$(machine_disk) || fail "no disk"
linux_guest web 2 cloud 256 <<EOF
vif = ["bridge=xenbr0,mac=00:16:3e:00:00:02"]
disk = ["phy:$disk,xvda,w", "file:/tmp/second.img,xvdb,w", "file:/tmp/third.img,xvdc,r"]
EOF
# The answer is not in the question, as the guest's terminal echoes what is typed.
probe session 150 /tmp/web.console 'Linux version' '' 'guest: up' '' '# ' 'echo $((6 * 7))' 42 '' \
    -- xl create -c /tmp/web.cfg >/tmp/talk.out 2>&1 || fail "$(tail -n 1 /tmp/talk.out): $(tail -n 1 /tmp/web.console)"
grep -q 'Xen PVH' /tmp/web.console || fail "the guest does not say that it is a PVH guest"
has_state web '[rb-]-----*' || fail "xl list says $(state web)"
talk web 240 '' ' ' '# ' 'dmesg -n 1; stty -opost; seq 1 170000 >/tmp/o; echo BEG""IN; cat /tmp/o; stty opost; echo EN""D' END '' >/tmp/talk.out 2>&1 ||
    fail "1 MiB of output: $(tail -n 1 /tmp/talk.out), $(wc -c </tmp/web.console) bytes"
tr -d '\r' </tmp/web.console | sed '1,/^BEGIN/d; /^END/,$d' | sha256sum >/tmp/got
seq 1 170000 | sha256sum >/tmp/want
cmp -s /tmp/got /tmp/want || fail "what arrived differs: $(wc -c </tmp/web.console) bytes"
pass "$(tr -d '\r' </tmp/web.console | grep -c .) lines, $(grep -o 'up after .*' /tmp/web.console | head -n 1)"
