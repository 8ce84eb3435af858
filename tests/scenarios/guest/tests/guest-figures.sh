. /tests/guests.sh
# What xl's verbs cost, in ticks: on the emulated machine one is one instruction. None costs more than Xen's did there.
figures=

# costs WHAT LIMIT RUNS COMMAND…: the limit is Xen 4.17's figure, in thousands of ticks.
costs() {
    what=$1
    limit=$2
    runs=$3
    shift 3
    ticks=$(probe ticks "$runs" "$@") || fail "$what: $ticks"
    thousands=$((ticks / 1000))
    echo "FIGURE $what $thousands k ticks (Xen $limit k)"
    figures="$figures $what $thousands"
    [ $thousands -le "$limit" ] || fail "$what took $thousands k ticks, Xen $limit k"
}

linux_guest linux 2 cloud 256 </dev/null
tiny_guest tiny idle </dev/null
sed -i 's/^memory = .*/memory = 128/' /tmp/tiny.cfg
costs true 10100 5 true
costs xl-list 21400 5 xl list
costs xl-info 20300 5 xl info
xenstore-write /tool/figure 1
costs xenstore-read 12200 5 xenstore-read /tool/figure
costs xenstore-write 12100 5 xenstore-write /tool/figure 2
xenstore-rm /tool/figure
costs tiny-create-paused 93800 1 xl create -p /tmp/tiny.cfg
costs xl-list-one 21600 5 xl list
costs tiny-pause 22300 1 xl pause tiny
costs tiny-destroy 57200 1 xl destroy tiny
costs linux-create-paused 580000 1 xl create -p /tmp/linux.cfg
costs linux-destroy 57000 1 xl destroy linux
costs linux-create 600000 1 xl create /tmp/linux.cfg
costs running-destroy 57000 1 xl destroy linux
await 10 no_domain_dies
# until the guest's kernel starts its init, as seen at its console
costs linux-to-init 2340000 1 probe session 100 /tmp/console 'Run /init' '' -- xl create -c /tmp/linux.cfg
xl destroy linux
pass "thousands of ticks:$figures"
