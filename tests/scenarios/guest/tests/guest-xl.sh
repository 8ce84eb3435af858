. /tests/guests.sh
# The rest of xl, on a small guest: lists, JSON, top, scheduling, dumps, dry runs, refusals, a monitor that acts.
tiny_guest small idle <<'EOF'
on_poweroff = "destroy"
uuid = "8f6a1c52-90d3-4be7-a3d1-0c5b7e11aa03"
EOF
create small
id=$(xl domid small)
# says WHAT TEXT COMMAND…: the command succeeds and prints the text.
says() {
    what=$1
    text=$2
    shift 2
    "$@" >/tmp/out 2>&1 || fail "$what ended with $?: $(tail -n 1 /tmp/out)"
    grep -qE -e "$text" /tmp/out || fail "$what: $(tail -n 1 /tmp/out)"
}
# denies WHAT TEXT COMMAND…: the command ends with 1, and says the text on stderr alone.
denies() {
    what=$1
    text=$2
    shift 2
    "$@" >/tmp/out 2>/tmp/err
    code=$?
    [ $code = 1 ] || fail "$what ended with $code"
    [ -s /tmp/out ] && fail "$what printed $(head -n 1 /tmp/out)"
    grep -qE -e "$text" /tmp/err || fail "$what: $(tail -n 1 /tmp/err)"
}
says vm-list "^8f6a1c52-90d3-4be7-a3d1-0c5b7e11aa03  $id    small *\$" xl vm-list
says claims "^small +$id +32 .* 0\$" xl claims
says cpupool-list '^Pool-0 +1 +credit2 +y +2$' xl cpupool-list
says cpupool-list-c '^Pool-0 +0$' xl cpupool-list -c
says sched-credit2 "^small +$id +256 +0\$" xl sched-credit2
xl sched-credit2 -d small -w 512 || fail "setting a weight ended with $?"
says weight "^small +$id +512 +0\$" xl sched-credit2 -d small
says pinning '^cpumap: all$' xl -N vcpu-pin small 0 all
xl vcpu-pin small 0 0 || fail "xl vcpu-pin ended with $?"
says vcpu-list "^small +$id +0 .* all / all\$" xl vcpu-list small
says json '"schema": "hematite.xl/2"' xl list --json
says prefix '"schema": "hematite.xl/2"' xl inf --json
[ "$(xl list -l | sed -n 's/^.*"name": "\(.*\)",$/\1/p' | tr '\n' ' ')" = "small " ] ||
    [ "$(xl list -l | sed -n 's/^.*"name": "\(.*\)",\{0,1\}$/\1/p' | tr '\n' ' ')" = "Domain-0 small " ] ||
    fail "names in xl list -l: $(xl list -l | grep '"name"' | tr -s ' \n' ' ')"
says uuid '"uuid": "8f6a1c52-90d3-4be7-a3d1-0c5b7e11aa03"' xl list -l small
xl top -b -i 2 -d 1 -f >/tmp/out || fail "xl top -b ended with $?"
[ "$(grep -c SSID /tmp/out)" = 2 ] || fail "xl top printed $(grep -c SSID /tmp/out) blocks"
tail -n 1 /tmp/out | grep -qE '^ +small [d-][s-][b-][c-][p-][r-] +[0-9]+ ' || fail "xl top: $(tail -n 1 /tmp/out)"
ln -sf "$(command -v xl)" /tmp/xentop
says xentop '^ +NAME  STATE ' /tmp/xentop -bi1
says dryrun '"name": "small",' xl create --quiet --dryrun --defconfig /tmp/small.cfg
xl dump-core small /tmp/core 2>/tmp/err || fail "xl dump-core: $(cat /tmp/err)"
[ "$(head -c 4 /tmp/core | tail -c 3)" = ELF ] || fail "the dump is no ELF file"
ls -l /tmp/core | grep -q '^-rw-------' || fail "others may read the dump: $(ls -l /tmp/core)"
rm /tmp/core
xl debug-keys q || fail "xl debug-keys ended with $?"
says config-update 'setting dom' xl config-update small /tmp/small.cfg on_crash=\"preserve\"
says kept '"on_crash": "preserve"' xl list -l small
for list in block-list network-list; do
    says $list 'BE-path' xl $list small
    [ "$(wc -l </tmp/out)" = 1 ] || fail "xl $list shows $(tail -n 1 /tmp/out)"
done
denies "a bad trigger" 'Invalid trigger "bogus"' xl trigger small bogus
denies "a button that is not there" 'has no power button' xl trigger small power
denies save 'not supported' xl save small /tmp/saved
denies migrate 'not supported' xl migrate small elsewhere
denies pci-attach 'not supported' xl pci-attach small 03:00.0
[ -z "$(xl pci-list small 2>&1)" ] || fail "xl pci-list lists something"
says sharing "^small +$id +32 +0\$" xl sharing
says json-error '"exit_code": 1' sh -c 'xl list --json nobody || true'
says json-domains '"domains": \[' xl pause --json small
xl unpause small || fail "xl unpause ended with $?"
denies set-parameters 'not supported' xl set-parameters loglvl=all
denies "no such verb" 'not supported' xl frobnicate
denies "no such domain" '^nobody is an invalid domain identifier \(rc=-6\)$' xl list nobody
denies "dom0's destruction" 'Cannot destroy privileged domain 0' xl destroy 0
denies "a guest without drivers" 'drivers' xl shutdown small
denies "a detached disk" 'not connected' xl block-detach small xvdz
destroy small
# What a guest's end brings is the monitor's to do.
tiny_guest ends poweroff <<'EOF'
on_poweroff = "preserve"
EOF
create ends
await 20 has_state ends '^...s' || fail "a guest that powered off is $(state ends)"
destroy ends
tiny_guest ends poweroff </dev/null
create ends
await 20 is_gone ends || fail "nobody destroyed a guest that powered off: $(state ends)"
says timings 'together +[0-9.]+ ms' xl create -p --timings /tmp/ends.cfg
has_state ends '^..p' || fail "created paused, and it is $(state ends)"
destroy ends
pass "every verb that is not the guest's"
