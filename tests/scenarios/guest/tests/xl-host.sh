. /tests/guests.sh
# What xl tells about the host, in the forms that other people's scripts cut up.
xl info >/tmp/info || fail "xl info ended with $?"
keys=$(sed 's/ *:.*//' /tmp/info | tr '\n' ' ')
for key in host release version machine nr_cpus max_cpu_id nr_nodes cores_per_socket threads_per_core cpu_mhz hw_caps \
    virt_caps total_memory free_memory sharing_freed_memory sharing_used_memory outstanding_claims free_cpus xen_major \
    xen_minor xen_extra xen_version xen_caps xen_scheduler xen_pagesize platform_params xen_changeset xen_commandline \
    cc_compiler cc_compile_by cc_compile_domain cc_compile_date build_id xend_config_format; do
    case "$keys" in
    "$key "*) keys=${keys#* } ;;
    *) fail "xl info: $key should come before $keys" ;;
    esac
done
# Ganeti wants these to be whole numbers.
for key in total_memory free_memory nr_cpus nr_nodes cores_per_socket threads_per_core xen_major xen_minor; do
    value=$(sed -n "s/^$key *: //p" /tmp/info)
    case "$value" in
    '' | *[!0-9]*) fail "xl info: $key is \"$value\"" ;;
    esac
done
[ "$(sed -n 's/^xen_version *: //p' /tmp/info | cut -c1-4)" = 4.17 ] || fail "another version: $(grep xen_version /tmp/info)"
xl list >/tmp/list || fail "xl list ended with $?"
printf 'Name                                        ID   Mem VCPUs\tState\tTime(s)\n' >/tmp/header
head -n 1 /tmp/list | cmp -s - /tmp/header || fail "the header of xl list: $(head -n 1 /tmp/list)"
# Six words in a row: name, three whole numbers, state, time.
grep -qE '^Domain-0 +0 +[0-9]+ +[0-9]+ +r----- +[0-9]+\.[0-9]$' /tmp/list || fail "xl list: $(tail -n 1 /tmp/list)"
xl list nobody >/tmp/out 2>&1 && fail "xl list of nobody succeeded"
grep -q nobody /tmp/out || fail "xl list of nobody said $(cat /tmp/out)"
xl dmesg >/tmp/out 2>&1 || fail "xl dmesg ended with $?"
[ -s /tmp/out ] || fail "xl dmesg printed nothing"
xl vcpu-list | grep -qE '^Domain-0 +0 +0 +0 +r-- +[0-9]+\.[0-9] +' || fail "xl vcpu-list: $(xl vcpu-list | tail -n 1)"
xl uptime | grep -qE '^Domain-0 +0 +([0-9]+ days?, )? *[0-9]+:[0-9]{2}:[0-9]{2}' || fail "xl uptime: $(xl uptime | tail -n 1)"
[ "$(xl domname 0)" = Domain-0 ] || fail "xl domname 0 is $(xl domname 0)"
[ "$(xl domid Domain-0)" = 0 ] || fail "xl domid Domain-0 is $(xl domid Domain-0)"
pass "$(wc -l </tmp/info) lines of info, $(probe free-pages) pages free"
