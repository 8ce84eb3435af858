. /tests/guests.sh
# A Linux guest with two vCPUs loads a kernel by Debian's kexec and goes on in it; that one loads another for the case that it
# crashes, and crashes. Each time it is the same domain, by a soft reset, with console, disk and card; and the last kernel has
# the memory of the one before to look at. Both are entered at their 64-bit entries, not at the ones for PVH.
dd if=/dev/zero of=/tmp/kexec.img bs=1M seek=64 count=0 2>/dev/null
mke2fs -F /tmp/kexec.img >/dev/null 2>&1
mount -o loop /tmp/kexec.img /mnt || fail "the disk's image cannot be mounted"
mkdir -p /mnt/boot /mnt/proc /mnt/sbin /mnt/sys /mnt/usr
cp -a /lib /lib64 /mnt
cp -a /usr/lib /mnt/usr
cp /sbin/kexec /bin/busybox /mnt/sbin
cp /guests/cloud/vmlinuz /guests/cloud/initrd /mnt/boot || fail "the disk's image is too small"
umount /mnt

disk='mount /dev/xvda /mnt && for d in proc sys; do mount -o bind /$d /mnt/$d; done && cmp /bin/busybox /mnt/sbin/busybox && echo SA""ME'
card='ping -c 1 -W 5 10.77.0.1 && echo REACH""ED'

# how many MiB can be read of the crashed kernel's memory
dump='echo "DUMP of $(dd if=/proc/vmcore of=/dev/null bs=1M 2>&1 | sed -n "s/+.* in$//p")"'

# load OPTION FILE WORDS: what a guest's shell is to do to load the kernel on its disk, until FILE of its sysfs says so. Without
# -i kexec and the new kernel each make a checksum of all that the kernel takes, 50 MiB: more than a minute here each time.
load() {
    echo "chroot /mnt /sbin/kexec -c -i $1 /boot/vmlinuz --initrd=/boot/initrd --command-line='console=hvc0 $3'; echo \"LOAD\"\"ED \$(cat $2)\""
}

# failed TRANSCRIPT: what went wrong in a conversation.
failed() {
    fail "$(tail -n 1 /tmp/talk.out): $(tail -n 3 "$1" | tr '\r\n' '  ')"
}

# went_on TIMES: it is the domain that it was, and its monitor has seen so many soft resets.
went_on() {
    [ "$(xl domid kexec)" = "$id" ] || fail "domain $id is now $(xl domid kexec)"
    [ "$(grep -c "domain $id goes on in its next kernel" /var/log/xen/xl-kexec.log)" = "$1" ] || fail "its monitor: $(tail -n 2 /var/log/xen/xl-kexec.log)"
}

linux_guest kexec 12 cloud 384 <<'EOT'
vcpus = 2
disk = ["/tmp/kexec.img,raw,xvda,w"]
vif = ["bridge=xenbr0"]
EOT
probe session 300 /tmp/kexec.first 'Linux version' '' 'guest: up' '' '# ' "$disk" SAME '' '# ' \
    "$(load -l /sys/kernel/kexec_loaded 'host=second address=10.77.0.12/24 gateway=10.77.0.1 crashkernel=160M')" 'LOADED 1' '' '# ' \
    'chroot /mnt /sbin/kexec -e' 'Linux version 6.1' '' 'Xen PVH' '' 'guest: up' '' '# ' hostname second '' '# ' \
    'sh /tests/cpus.sh' 'CPUS OK' '' '# ' "$card" REACHED '' '# ' "$disk" SAME '' \
    -- xl create -c /tmp/kexec.cfg >/tmp/talk.out 2>&1 || failed /tmp/kexec.first
id=$(xl domid kexec)
went_on 1

talk kexec 300 '' ' ' '# ' "$(load -p /sys/kernel/kexec_crash_loaded 'host=third nr_cpus=1 reset_devices')" 'LOADED 1' '' '# ' \
    'echo c >/proc/sysrq-trigger' 'Linux version 6.1' '' 'Xen PVH' '' 'guest: up' '' '# ' hostname third '' '# ' \
    'head -c 8192 /proc/vmcore | strings | grep OSRELEASE' 'OSRELEASE=6.1' '' '# ' \
    "$dump" 'DUMP of' '' '# ' "$disk" SAME '' >/tmp/talk.out 2>&1 || failed /tmp/kexec.console
went_on 2
size=$(tr -d '\r' </tmp/kexec.console | sed -n 's/^DUMP of //p')
[ "$size" -gt 200 ] || fail "the crashed kernel's memory has $size MiB"
up=$(grep -ho 'up after .*' /tmp/kexec.first /tmp/kexec.console | tr -d '\r' | tr '\n' ' ')
on_guest kexec 30 EXIT 'umount /mnt/proc /mnt/sys /mnt; poweroff -f' || failed /tmp/kexec.console
await 30 is_gone kexec || fail "after its poweroff: $(xl list | tail -n 1)"
pass "$size MiB of the crashed kernel; $up"
