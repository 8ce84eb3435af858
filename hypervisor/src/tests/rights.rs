//! Who may make which hypercall: a guest is denied all that is not in the list below, before its arguments are looked
//! at.

use crate::domain::destroy::{self, Progress};
use crate::domain::vcpu_frames::VcpuFrames;
use crate::exit;
use crate::pcpu::Pcpu;
use crate::pcpu::hand_off::HandOff;
use crate::runner::{Activity, Runner, make};
use crate::tests::common::{RIP, fake, known_guest, pcpu, prepare};
use guest_abi::errno::Errno;
use guest_abi::event_channel::*;
use guest_abi::grant_table::*;
use guest_abi::hvm::hvm_op::*;
use guest_abi::memory::*;
use guest_abi::sched::*;
use guest_abi::vcpu::*;
use guest_abi::version::*;
use guest_abi::xen::*;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{VcpuHw, VmExit};

/// What a guest may ask for, by hypercall. Whoever adds a row for guests adds it here, and says why they may.
const GUESTS_MAY: &[(u64, &[u32])] = &[
    (
        __HYPERVISOR_memory_op,
        &[
            XENMEM_increase_reservation,
            XENMEM_decrease_reservation,
            XENMEM_maximum_ram_page,
            XENMEM_current_reservation,
            XENMEM_maximum_reservation,
            XENMEM_populate_physmap,
            XENMEM_add_to_physmap,
            XENMEM_memory_map,
            XENMEM_set_memory_map,
            XENMEM_maximum_gpfn,
            XENMEM_remove_from_physmap,
            XENMEM_add_to_physmap_batch,
            XENMEM_get_vnumainfo,
            XENMEM_reserved_device_memory_map,
        ],
    ),
    (
        __HYPERVISOR_xen_version,
        &[
            XENVER_version,
            XENVER_extraversion,
            XENVER_compile_info,
            XENVER_capabilities,
            XENVER_changeset,
            XENVER_platform_parameters,
            XENVER_get_features,
            XENVER_pagesize,
            XENVER_guest_handle,
            XENVER_commandline,
            XENVER_build_id,
        ],
    ),
    (__HYPERVISOR_console_io, &[CONSOLEIO_write]),
    (
        __HYPERVISOR_grant_table_op,
        &[
            GNTTABOP_map_grant_ref,
            GNTTABOP_unmap_grant_ref,
            GNTTABOP_setup_table,
            GNTTABOP_copy,
            GNTTABOP_query_size,
            GNTTABOP_unmap_and_replace,
            GNTTABOP_set_version,
            GNTTABOP_get_version,
        ],
    ),
    (
        __HYPERVISOR_vm_assist,
        &[VMASST_CMD_enable, VMASST_CMD_disable],
    ),
    (
        __HYPERVISOR_vcpu_op,
        &[
            VCPUOP_initialise,
            VCPUOP_up,
            VCPUOP_down,
            VCPUOP_is_up,
            VCPUOP_get_runstate_info,
            VCPUOP_register_runstate_memory_area,
            VCPUOP_set_periodic_timer,
            VCPUOP_stop_periodic_timer,
            VCPUOP_set_singleshot_timer,
            VCPUOP_stop_singleshot_timer,
            VCPUOP_register_vcpu_info,
            VCPUOP_send_nmi,
            VCPUOP_get_physid,
            VCPUOP_register_vcpu_time_memory_area,
        ],
    ),
    (
        __HYPERVISOR_sched_op,
        &[
            SCHEDOP_yield,
            SCHEDOP_block,
            SCHEDOP_shutdown,
            SCHEDOP_poll,
            SCHEDOP_shutdown_code,
            SCHEDOP_watchdog,
        ],
    ),
    (
        __HYPERVISOR_event_channel_op,
        &[
            EVTCHNOP_bind_interdomain,
            EVTCHNOP_bind_virq,
            EVTCHNOP_close,
            EVTCHNOP_send,
            EVTCHNOP_status,
            EVTCHNOP_alloc_unbound,
            EVTCHNOP_bind_ipi,
            EVTCHNOP_bind_vcpu,
            EVTCHNOP_unmask,
            EVTCHNOP_reset,
            EVTCHNOP_init_control,
            EVTCHNOP_expand_array,
            EVTCHNOP_set_priority,
        ],
    ),
    (
        __HYPERVISOR_hvm_op,
        &[
            HVMOP_set_param,
            HVMOP_get_param,
            HVMOP_flush_tlbs,
            HVMOP_get_time,
            HVMOP_get_mem_type,
            HVMOP_set_evtchn_upcall_vector,
        ],
    ),
];
/// The two that have no sub-operation.
const WITHOUT_SUB_OP: [u64; 2] = [__HYPERVISOR_multicall, __HYPERVISOR_set_timer_op];

fn may(number: u64, sub_op: u32) -> bool {
    let listed = GUESTS_MAY.iter().find(|(listed, _)| *listed == number);
    WITHOUT_SUB_OP.contains(&number) || listed.is_some_and(|(_, ops)| ops.contains(&sub_op))
}

fn call(runner: &mut Runner<FakeVcpu>, pcpu: &mut Pcpu, number: u64, sub_op: u64) -> Option<u64> {
    /// The guest has no memory: whoever reads an argument ends with EFAULT.
    const NOWHERE: u64 = 0x7000_0000;
    let regs = runner.hw.regs();
    regs.set_rax(number);
    regs.set_rdi(sub_op);
    regs.set_rsi(NOWHERE);
    regs.set_rdx(1);
    runner.hw.system.rip = RIP;
    let _ = exit::handle(runner, pcpu, VmExit::Hypercall);
    runner.activity = Activity::Ready;
    (runner.hw.rip() != RIP).then(|| runner.hw.regs().rax())
}

#[test]
fn guest_is_denied_every_call_that_no_row_gives_it() {
    prepare();
    let guest = known_guest();
    let mut pcpu = pcpu();
    let hand_off = HandOff {
        domain: guest.clone(),
        index: 0,
        parts: VcpuFrames::alloc().expect("the arena has room"),
    };
    let mut runner = make::runner(hand_off, &mut pcpu, fake);
    let denials = [Errno::ENOSYS, Errno::EPERM].map(Errno::to_rax);
    for number in (0..70).chain([1 << 32 | 32, u64::MAX]) {
        for sub_op in 0..64 {
            let answer = call(&mut runner, &mut pcpu, number, u64::from(sub_op));
            let is_denied = answer.is_some_and(|answer| denials.contains(&answer));
            assert_eq!(
                !is_denied,
                may(number, sub_op),
                "hypercall {number}, {sub_op}: {answer:x?}"
            );
        }
        let beyond = call(&mut runner, &mut pcpu, number, 64);
        let is_denied = beyond.is_some_and(|answer| denials.contains(&answer));
        // of memory_op the bits above are where it goes on
        let has_no_such = number != __HYPERVISOR_memory_op && !WITHOUT_SUB_OP.contains(&number);
        assert_eq!(is_denied, has_no_such, "hypercall {number}, beyond");
    }
    drop(runner);
    while destroy::step(&guest, &mut FakeVcpu::default()) == Progress::More {}
}
