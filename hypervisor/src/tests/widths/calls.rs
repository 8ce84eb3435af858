//! Versions, events, parameters and calls in one.

use super::*;

#[test]
fn version_and_its_texts() {
    let outcome = alike(|guest| {
        let plain = [XENVER_version, XENVER_pagesize, XENVER_build_id, 99];
        let plain = plain.map(|op| guest.call(__HYPERVISOR_xen_version, [op.into(), 0, 0, 0, 0]));
        let features = guest.with(
            __HYPERVISOR_xen_version,
            XENVER_get_features,
            XenFeatureInfo::default(),
        );
        let text = guest.with(
            __HYPERVISOR_xen_version,
            XENVER_capabilities,
            [0u8; XEN_CAPABILITIES_INFO_LEN],
        );
        let start = XenPlatformParameters { virt_start: 7 };
        let start = guest.with(__HYPERVISOR_xen_version, XENVER_platform_parameters, start);
        (plain, features, text.0, text.1.to_vec(), start)
    });
    assert_eq!(outcome.0[0], 0x0004_0011);
    assert_eq!(outcome.4.1.virt_start, 0);
}

/// What lies after a structure of 32 bits is not written.
#[test]
fn narrow_structure_ends_where_it_ends() {
    prepare();
    let mut guest = Guest::new(Width::Bits32);
    guest.put_bytes(ARGS + 4, &[0xAA; 4]);
    let start = XenPlatformParameters { virt_start: 7 };
    let (result, _) = guest.with(__HYPERVISOR_xen_version, XENVER_platform_parameters, start);
    assert_eq!(result, 0);
    assert_eq!(guest.get_plain::<[u8; 4]>(ARGS + 4), [0xAA; 4]);
    let memory = XenMemoryMap::default();
    guest.put_bytes(ARGS + 8, &[0xAA; 8]);
    let (result, _) = guest.with(__HYPERVISOR_memory_op, XENMEM_memory_map, memory);
    assert_eq!(result, 0);
    assert_eq!(guest.get_plain::<[u8; 8]>(ARGS + 8), [0xAA; 8]);
}

#[test]
fn event_channels_open_raise_and_close() {
    let outcome = alike(|guest| {
        let number = __HYPERVISOR_event_channel_op;
        let alloc = EvtchnAllocUnbound {
            dom: DOMID_SELF,
            remote_dom: DOMID_SELF,
            port: 0,
        };
        let far = guest.with(number, EVTCHNOP_alloc_unbound, alloc);
        let ipi = guest.with(
            number,
            EVTCHNOP_bind_ipi,
            EvtchnBindIpi { vcpu: 1, port: 0 },
        );
        let sent = guest.with(number, EVTCHNOP_send, EvtchnSend { port: ipi.1.port });
        let status = EvtchnStatus {
            dom: DOMID_SELF,
            port: ipi.1.port,
            ..EvtchnStatus::default()
        };
        let status = guest.with(number, EVTCHNOP_status, status);
        let closed = guest.with(number, EVTCHNOP_close, EvtchnClose { port: far.1.port });
        let again = guest.with(number, EVTCHNOP_close, EvtchnClose { port: far.1.port });
        let control = EvtchnInitControl {
            control_gfn: SHARED >> 12,
            ..EvtchnInitControl::default()
        };
        let control = guest.with(number, EVTCHNOP_init_control, control);
        (far, ipi, sent.0, status, closed.0, again.0, control)
    });
    assert_eq!((outcome.2, outcome.4), (0, 0));
    assert_eq!(outcome.5, refused(Errno::EINVAL));
    assert_eq!(outcome.3.1.vcpu, 1);
    assert_eq!(outcome.6.1.link_bits, 17);
}

#[test]
fn parameters_and_upcall_vectors() {
    let outcome = alike(|guest| {
        let number = __HYPERVISOR_hvm_op;
        let param = |index, value| XenHvmParam {
            domid: DOMID_SELF,
            pad: 0,
            index,
            value,
        };
        let vector = 2 << 56 | 0xF3;
        let set = guest.with(
            number,
            HVMOP_set_param,
            param(HVM_PARAM_CALLBACK_IRQ, vector),
        );
        let got = guest.with(number, HVMOP_get_param, param(HVM_PARAM_CALLBACK_IRQ, 0));
        let foreign = guest.with(number, HVMOP_set_param, param(HVM_PARAM_STORE_PFN, 1));
        let upcall = XenHvmEvtchnUpcallVector {
            vcpu: 1,
            vector: 0x55,
            ..XenHvmEvtchnUpcallVector::default()
        };
        let upcall = guest.with(number, HVMOP_set_evtchn_upcall_vector, upcall);
        (set.0, got, foreign.0, upcall.0)
    });
    assert_eq!((outcome.0, outcome.1.0, outcome.3), (0, 0, 0));
    assert_eq!(outcome.1.1.value, 2 << 56 | 0xF3);
    assert_eq!(outcome.2, refused(Errno::EPERM));
}

#[test]
fn calls_in_one() {
    let outcome = alike(|guest| {
        let entry = |op, args: [u64; 2]| MulticallEntry {
            op,
            result: 7,
            args: [args[0], args[1], 0, 0, 0, 0],
        };
        let port = guest.put(ARRAY, EvtchnBindIpi { vcpu: 1, port: 0 });
        let batch = [
            entry(__HYPERVISOR_xen_version, [XENVER_version.into(), 0]),
            entry(
                __HYPERVISOR_event_channel_op,
                [EVTCHNOP_bind_ipi.into(), port],
            ),
            entry(__HYPERVISOR_multicall, [0, 0]),
            entry(999, [0, 0]),
        ];
        let many: Vec<_> = batch.iter().copied().cycle().take(60).collect();
        let at = guest.put_all(ARGS, &many);
        let result = guest.call(__HYPERVISOR_multicall, [at, 60, 0, 0, 0]);
        let place = |index: u64| at + index * MulticallEntry::bytes(guest.width) as u64;
        let results = (0..60).map(|index| guest.get::<MulticallEntry>(place(index)).result as u32);
        (
            result,
            results.collect::<Vec<_>>(),
            guest.get::<EvtchnBindIpi>(ARRAY).port,
        )
    });
    let [einval, enosys] = [Errno::EINVAL, Errno::ENOSYS].map(|errno| errno.to_rax() as u32);
    assert_eq!(outcome.1[..4], [0x0004_0011, 0, einval, enosys]);
    assert_eq!(outcome.2, 15);
}

#[test]
fn user_mode_of_either_width_makes_no_hypercalls() {
    prepare();
    for width in [Width::Bits64, Width::Bits32] {
        let mut guest = Guest::new(width);
        guest.runner.hw.system.segments[SEGMENT_SS].access = 3 << 5;
        guest.runner.hw.system.segments[SEGMENT_CS].access |= 3 << 5;
        let version = guest.call(__HYPERVISOR_xen_version, [0; 5]);
        assert_eq!(version, refused(Errno::EPERM));
    }
}

proptest! {
    /// No hypercall of 32-bit code touches more than it may, whatever its arguments: none panics, none does what the
    /// same numbers do not do in 64-bit code.
    #[test]
    fn any_call_is_answered_alike(
        number in 0..50u64, op in 0..40u64, args in prop::collection::vec(0..0x8000u64, 4), seed in prop::collection::vec(any::<u32>(), 16),
    ) {
        // those that look at time, or end it
        prop_assume!(![__HYPERVISOR_sched_op, __HYPERVISOR_multicall, __HYPERVISOR_memory_op, __HYPERVISOR_grant_table_op].contains(&number));
        prop_assume!(number != __HYPERVISOR_vcpu_op || op < u64::from(VCPUOP_get_runstate_info));
        let outcome = alike(|guest| {
            for (index, word) in (0..).zip(&seed) {
                for frame in 0..8 {
                    guest.put(frame * 0x1000 + index * 4, *word);
                }
            }
            guest.call(number, [op, args[0], args[1], args[2], args[3]])
        });
        prop_assert!(outcome > -4096);
    }
}
