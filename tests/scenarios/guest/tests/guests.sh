# For tests with guests: configuration files, waiting, talking to a console.
. /tests/lib.sh

# linux_guest NAME NUMBER KERNEL MEMORY [WORDS]: writes /tmp/NAME.cfg of a Linux guest with address 10.77.0.NUMBER, and the words
# on its command line; more lines of it come from standard input.
linux_guest() {
    cat >"/tmp/$1.cfg" <<EOF
name = "$1"
type = "pvh"
kernel = "/guests/$3/vmlinuz"
ramdisk = "/guests/$3/initrd"
extra = "console=hvc0 host=$1 address=10.77.0.$2/24 gateway=10.77.0.1 $5"
memory = $4
EOF
    cat >>"/tmp/$1.cfg"
}

# tiny_guest NAME MODE: writes /tmp/NAME.cfg of the test kernel that does what MODE says; more lines from standard input.
tiny_guest() {
    cat >"/tmp/$1.cfg" <<EOF
name = "$1"
type = "pvh"
kernel = "/guests/kernels/domu.elf"
extra = "mode=$2"
memory = 32
EOF
    cat >>"/tmp/$1.cfg"
}

# create NAME: creates it, or fails with what xl said.
create() {
    xl create "/tmp/$1.cfg" >"/tmp/$1.out" 2>&1 || fail "xl create of $1: $(tail -n 3 "/tmp/$1.out" | tr '\n' ' ')"
}

# await SECONDS COMMAND…: waits until the command succeeds.
await() {
    tries=$(($1 * 5))
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.2
    done
}

is_gone() {
    ! xl domid "$1" >/dev/null 2>&1
}

# state NAME: its letters in xl list.
state() {
    xl list "$1" 2>/dev/null | awk 'NR == 2 { print $5 }'
}

# memory NAME: its MiB in xl list.
memory() {
    xl list "$1" | awk 'NR == 2 { print $3 }'
}

# What dom0's balloon driver counts, in KiB: xl's MiB are rounded.
dom0_memory() {
    cat /sys/devices/system/xen_memory/xen_memory0/info/current_kb
}

dom0_has() {
    [ "$(dom0_memory)" = "$1" ]
}

has_state() {
    state "$1" | grep -q "$2"
}

# seconds NAME: the CPU time it has used, in tenths of a second.
cpu_time() {
    xl list "$1" 2>/dev/null | awk 'NR == 2 { print int($6 * 10) }'
}

destroy() {
    xl destroy "$1" || fail "xl destroy $1 ended with $?"
    await 10 is_gone "$1" || fail "$1 is still there after xl destroy: $(xl list | tail -n 1)"
}

# talk NAME SECONDS [WAIT ANSWER]…: on the guest's console; all it prints is in /tmp/NAME.console.
talk() {
    talk_to=$1
    talk_for=$2
    shift 2
    probe session "$talk_for" "/tmp/$talk_to.console" "$@" -- xl console "$talk_to"
}

# on_guest NAME SECONDS TEXT COMMAND: types the command at the guest's shell and waits for TEXT in what it prints.
on_guest() {
    talk "$1" "$2" '' '' '' ' ' '# ' "$4" "$3" '' >/tmp/talk.out 2>&1
}

# What must be the same before and after: hypervisor's free pages, domains, xenstore's nodes, loop devices, dom0's ports.
leftovers() {
    # What is being torn down has a moment for it.
    await 10 no_domain_dies
    echo "pages $(probe free-pages)"
    echo "domains $(xl list | awk 'NR > 1 { print $1 }' | tr '\n' ' ')"
    echo "nodes $(xenstore-ls -f | grep -cv '^/local/domain/0/\(memory\|data\)')"
    echo "loops $(losetup -a | wc -l)"
    echo "ports $(grep -c xen-dyn /proc/interrupts)"
    echo "interfaces $(ls /sys/class/net | tr '\n' ' ')"
}

no_domain_dies() {
    ! xl list | awk 'NR > 1 { print $5 }' | grep -q 'd$'
}

# two_cpus NAME NUMBER KERNEL VERSION [WORDS]: boots a Linux guest with two vCPUs, has it use both, its disk and its card, and end.
two_cpus() {
    dd if=/dev/zero of="/tmp/$1.img" bs=1M seek=8 count=0 2>/dev/null
    mke2fs -F "/tmp/$1.img" >/dev/null 2>&1
    linux_guest "$1" "$2" "$3" 256 "$5" <<EOT
vcpus = 2
disk = ["/tmp/$1.img,raw,xvda,w"]
vif = ["bridge=xenbr0"]
EOT
    probe session 240 "/tmp/$1.console" "Linux version $4" '' 'Xen PVH' '' 'guest: up' '' '# ' 'echo $((6 * 7))' 42 '' '# ' \
        'sh /tests/cpus.sh' 'CPUS OK' '' '# ' 'ping -c 1 -W 5 10.77.0.1 && echo REACH""ED' REACHED '' '# ' \
        'mount /dev/xvda /mnt && cp /bin/busybox /mnt && umount /mnt && mount /dev/xvda /mnt && cmp /bin/busybox /mnt/busybox && echo SA""ME' SAME '' '# ' \
        'umount /mnt; poweroff -f' EXIT '' \
        -- xl create -c "/tmp/$1.cfg" >/tmp/talk.out 2>&1 ||
        fail "$(tail -n 1 /tmp/talk.out): $(tail -n 3 "/tmp/$1.console" | tr '\r\n' '  ')"
    await 30 is_gone "$1" || fail "after its poweroff: $(xl list | tail -n 1)"
    pass "$(grep -o 'up after .*' "/tmp/$1.console" | head -n 1)"
}
