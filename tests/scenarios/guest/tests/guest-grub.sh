. /tests/guests.sh
# GRUB as the kernel: 32-bit code with console, xenstore and disk of its own. It finds its menu on the guest's disk, and
# starts the Linux that is there when its key is typed.
dd if=/dev/zero of=/tmp/grub.img bs=1M seek=64 count=0 2>/dev/null
mke2fs -F /tmp/grub.img >/dev/null 2>&1
mount -o loop /tmp/grub.img /mnt || fail "the disk's image cannot be mounted"
mkdir -p /mnt/boot/grub
cp /guests/cloud/vmlinuz /guests/cloud/initrd /mnt/boot/
cat >/mnt/boot/grub/grub.cfg <<'EOT'
set timeout=-1
menuentry "not this one" { halt }
menuentry "Linux, of $grub_cpu-$grub_platform" --hotkey=l {
    linux /boot/vmlinuz console=hvc0 host=grub address=10.77.0.9/24 gateway=10.77.0.1
    initrd /boot/initrd
}
EOT
umount /mnt
cat >/tmp/grub.cfg <<'EOT'
name = "grub"
type = "pvh"
kernel = "/usr/lib/grub-xen/grub-i386-xen_pvh.bin"
memory = 320
disk = ["/tmp/grub.img,raw,xvda,w"]
vif = ["bridge=xenbr0"]
EOT
probe session 240 /tmp/grub.console 'GNU GRUB' '' 'Linux, of i386-xen_pvh' l 'Linux version 6.1' '' 'guest: up' '' '# ' \
    'echo $((6 * 7))' 42 '' '# ' 'mount /dev/xvda /mnt && ls /mnt/boot/gr""ub' grub.cfg '' '# ' 'umount /mnt; poweroff -f' EXIT '' \
    -- xl create -c /tmp/grub.cfg >/tmp/talk.out 2>&1 ||
    fail "$(tail -n 1 /tmp/talk.out): $(tail -n 3 /tmp/grub.console | tr '\r\n' '  ')"
grep -q 'Xen PVH' /tmp/grub.console || fail "the guest does not say that it is a PVH guest"
await 30 is_gone grub || fail "after its poweroff: $(xl list | tail -n 1)"
pass "$(grep -o 'up after .*' /tmp/grub.console | head -n 1)"
