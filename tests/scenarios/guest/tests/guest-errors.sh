. /tests/guests.sh
# Configurations that cannot work: one clear message each, exit code 1 where they are wrong and 3 where the domain cannot be
# made, and nothing is left.
tiny_guest good idle </dev/null
create good
destroy good
leftovers >/tmp/before
# refused CODE WHAT WORDS…: creating /tmp/bad.cfg must fail with this exit code and a message that has one of the words.
refused() {
    expected=$1
    what=$2
    shift 2
    xl create /tmp/bad.cfg >/tmp/out 2>&1
    code=$?
    [ $code = "$expected" ] || fail "$what: exit code $code, $(tail -n 1 /tmp/out)"
    for text in "$@"; do
        grep -qi -e "$text" /tmp/out && return
    done
    fail "$what: $(head -n 2 /tmp/out | tr '\n' ' ')"
}
xl create /tmp/nowhere.cfg >/tmp/out 2>&1
[ $? = 3 ] || fail "a missing file did not end with 3: $(cat /tmp/out)"
echo 'name = "bad' >/tmp/bad.cfg
refused 1 "an open string" bad.cfg
tiny_guest bad idle </dev/null
sed -i 's/domu.elf/nothing.elf/' /tmp/bad.cfg
refused 3 "a missing kernel" nothing.elf
tiny_guest bad idle </dev/null
sed -i 's,/guests/kernels/domu.elf,/etc/profile,' /tmp/bad.cfg
refused 3 "a kernel that is none" kernel
tiny_guest bad idle <<'EOF'
disk = ["file:/tmp/no.img,xvda,w"]
EOF
refused 3 "a missing disk" no.img
tiny_guest bad idle <<'EOF'
vif = ["mac=00:16:3e:zz:00:01"]
EOF
refused 1 "a wrong MAC" mac
tiny_guest bad idle <<'EOF'
vif = ["bridge=nobridge"]
EOF
refused 3 "a missing bridge" nobridge
tiny_guest bad idle </dev/null
sed -i 's/^memory = .*/memory = 100000/' /tmp/bad.cfg
refused 3 "too much memory" memory free
# Where dom0_mem= says what dom0 has, none of it is taken for a guest, unless xl.conf says so.
had=$(dom0_memory)
tiny_guest bad idle </dev/null
sed -i "s/^memory = .*/memory = $(($(xl info | awk '$1 == "free_memory" { print $3 }') + 64))/" /tmp/bad.cfg
refused 3 "more than is free" 'make dom0 smaller: `xl mem-set 0'
tail -n 1 /tmp/out | grep -q 'MiB' || fail "more than is free: $(tail -n 1 /tmp/out)"
mkdir -p /etc/xen
echo 'autoballoon = "on"' >/etc/xen/xl.conf
create bad
rm /etc/xen/xl.conf
destroy bad
dom0_has "$had" && fail "dom0 gave nothing"
xl mem-set 0 "${had}k" || fail "xl mem-set 0 ended with $?"
await 30 dom0_has "$had" || fail "dom0 had $had KiB, and gets only $(dom0_memory) back"
tiny_guest good idle </dev/null
create good
cp /tmp/good.cfg /tmp/bad.cfg
refused 3 "a name that is taken" good
destroy good
leftovers >/tmp/after
cmp -s /tmp/before /tmp/after || fail "$(diff /tmp/before /tmp/after | grep '^[<>+-]' | tr '\n' ' ')"
pass "each refused with a reason"
