. /tests/lib.sh
# EFI's runtime services, by way of the hypervisor: the firmware's variables, and one written, read, removed.
is_bare && pass bare
dir=/sys/firmware/efi/efivars
# of those that Linux lets anybody remove
variable=$dir/BootNext-8be4df61-93ca-11d2-aa0d-00e098032b8c

mount_variables() {
    umount $dir 2>/dev/null
    mount -t efivarfs efivarfs $dir || fail "efivarfs cannot be mounted"
}

# Prints the value, two bytes, as hexadecimal.
value() {
    tail -c +5 $variable | od -An -tx1 | tr -d ' '
}

[ -d $dir ] || fail "no $dir: the kernel was not told of EFI"
mount_variables
firmware=$(ls $dir | wc -l)
[ "$firmware" -gt 5 ] || fail "$firmware variables"
# attributes: kept, and there for boot services and for runtime services
printf '\007\000\000\000\064\022' >$variable || fail "a variable cannot be written"
[ "$(value)" = 3412 ] || fail "what was written reads as $(value)"
mount_variables
[ "$(value)" = 3412 ] || fail "the firmware has kept $(value)"
rm $variable || fail "it cannot be removed"
mount_variables
[ ! -e $variable ] || fail "it was removed and is still there"
pass "$firmware variables of the firmware"
