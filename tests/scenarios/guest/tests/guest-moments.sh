. /tests/guests.sh
# A Linux guest with a disk and a network card is destroyed at 50 moments of its boot and of its disk's work.
dd if=/dev/zero of=/tmp/moment.img bs=1M count=16 2>/dev/null
mke2fs -F /tmp/moment.img >/dev/null 2>&1
linux_guest moment 7 cloud 128 <<'EOF'
vif = ["bridge=xenbr0"]
disk = ["file:/tmp/moment.img,xvda,w"]
EOF
sed -i 's/^extra = "/extra = "autorun=busydisk /' /tmp/moment.cfg
for warm_up in 1 2; do
    create moment
    sleep 2
    destroy moment
done
leftovers >/tmp/before
moments=$(word hematite.moments)
n=0
while [ $n -lt "${moments:-50}" ]; do
    create moment
    # From the first instruction to disk work: 0 to 50 s of the guest's life, more of them early.
    sleep "$(awk "BEGIN { print $n * $n / 50 }")"
    destroy moment
    n=$((n + 1))
    [ $((n % 10)) = 0 ] && echo "moments: $n"
done
leftovers >/tmp/after
rm -f /tmp/moment.img
cmp -s /tmp/before /tmp/after || fail "$(diff /tmp/before /tmp/after | grep '^[<>+-]' | tr '\n' ' ')"
pass "$n moments, $(tr '\n' ' ' </tmp/after)"
