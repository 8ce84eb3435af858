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
tiny_guest good idle </dev/null
create good
cp /tmp/good.cfg /tmp/bad.cfg
refused 3 "a name that is taken" good
destroy good
leftovers >/tmp/after
cmp -s /tmp/before /tmp/after || fail "$(diff /tmp/before /tmp/after | grep '^[<>+-]' | tr '\n' ' ')"
pass "each refused with a reason"
