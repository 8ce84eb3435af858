//! Hypercalls as one table: number, sub-operation, who may, handler. A row that is missing denies.
//!
//! Where a call acts on a domain that its arguments name, [`super::caller::target`] asks again whose that is.
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of hypercalls and rows are small, and checked where the table is compiled"
)]

use guest_abi::errno::Errno;
use guest_abi::event_channel::*;
use guest_abi::grant_table::*;
use guest_abi::hvm::hvm_op::*;
use guest_abi::memory::*;
use guest_abi::physdev::*;
use guest_abi::sched::*;
use guest_abi::vcpu::*;
use guest_abi::version::*;
use guest_abi::xen::*;
use hv_hw::virt::VcpuHw;

use crate::hypercall::memory::{self, maps, physmap, reservation, resource};
use crate::hypercall::{
    Answer, Call, console_io, domctl, event_channel, grant_table, hvm, multicall, physdev,
    platform, sched, sysctl, vcpu_op, version, vm_assist,
};

/// Who may make a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    Everybody,
    /// The domain that owns the machine.
    HardwareDomain,
}

/// What serves a call.
pub(super) type Handler<H> = fn(&mut Call<'_, H>) -> Answer;

/// A row of the table.
struct Row<H> {
    number: u64,
    /// The sub-operation; 0 where the hypercall has none, or has it in its argument's structure.
    sub_op: u32,
    who: Who,
    serve: Handler<H>,
}

macro_rules! rows {
    ($($number:ident { $($sub_op:tt: $who:ident => $serve:path,)* })*) => {
        &[$($(Row {
            number: $number,
            sub_op: $sub_op,
            who: Who::$who,
            serve: $serve,
        },)*)*]
    };
}

/// The table, for one kind of hardware.
struct Table<H>(core::marker::PhantomData<H>);

impl<H: VcpuHw> Table<H> {
    const ROWS: &'static [Row<H>] = rows! {
        __HYPERVISOR_platform_op {
            0: HardwareDomain => platform::handle,
        }
        __HYPERVISOR_memory_op {
            XENMEM_increase_reservation: Everybody => memory::not_supported,
            XENMEM_decrease_reservation: Everybody => reservation::decrease,
            XENMEM_maximum_ram_page: Everybody => reservation::maximum_ram_page,
            XENMEM_current_reservation: Everybody => reservation::current,
            XENMEM_maximum_reservation: Everybody => reservation::maximum,
            XENMEM_populate_physmap: Everybody => reservation::populate,
            XENMEM_add_to_physmap: Everybody => physmap::add,
            XENMEM_memory_map: Everybody => maps::memory_map,
            XENMEM_set_memory_map: Everybody => maps::set_memory_map,
            XENMEM_maximum_gpfn: Everybody => reservation::maximum_gpfn,
            XENMEM_remove_from_physmap: Everybody => physmap::remove,
            XENMEM_set_pod_target: HardwareDomain => reservation::set_pod_target,
            XENMEM_get_pod_target: HardwareDomain => reservation::get_pod_target,
            XENMEM_add_to_physmap_batch: Everybody => physmap::add_batch,
            XENMEM_claim_pages: HardwareDomain => reservation::claim,
            XENMEM_get_vnumainfo: Everybody => memory::not_supported,
            XENMEM_reserved_device_memory_map: Everybody => memory::no_regions,
            XENMEM_acquire_resource: HardwareDomain => resource::acquire,
        }
        __HYPERVISOR_multicall {
            0: Everybody => multicall::handle,
        }
        __HYPERVISOR_set_timer_op {
            0: Everybody => vcpu_op::set_timer_op,
        }
        __HYPERVISOR_xen_version {
            XENVER_version: Everybody => version::number,
            XENVER_extraversion: Everybody => version::extraversion,
            XENVER_compile_info: Everybody => version::compile_info,
            XENVER_capabilities: Everybody => version::capabilities,
            XENVER_changeset: Everybody => version::changeset,
            XENVER_platform_parameters: Everybody => version::platform_parameters,
            XENVER_get_features: Everybody => version::features,
            XENVER_pagesize: Everybody => version::page_size,
            XENVER_guest_handle: Everybody => version::guest_handle,
            XENVER_commandline: Everybody => version::command_line,
            XENVER_build_id: Everybody => version::build_id,
        }
        __HYPERVISOR_console_io {
            CONSOLEIO_write: Everybody => console_io::write,
            CONSOLEIO_read: HardwareDomain => console_io::read,
        }
        __HYPERVISOR_grant_table_op {
            GNTTABOP_map_grant_ref: Everybody => grant_table::map,
            GNTTABOP_unmap_grant_ref: Everybody => grant_table::unmap,
            GNTTABOP_setup_table: Everybody => grant_table::setup,
            GNTTABOP_copy: Everybody => grant_table::copy,
            GNTTABOP_query_size: Everybody => grant_table::query_size,
            GNTTABOP_unmap_and_replace: Everybody => grant_table::replace,
            GNTTABOP_set_version: Everybody => grant_table::set_version,
            GNTTABOP_get_version: Everybody => grant_table::get_version,
        }
        __HYPERVISOR_vm_assist {
            VMASST_CMD_enable: Everybody => vm_assist::enable,
            VMASST_CMD_disable: Everybody => vm_assist::disable,
        }
        __HYPERVISOR_vcpu_op {
            VCPUOP_initialise: Everybody => vcpu_op::initialise,
            VCPUOP_up: Everybody => vcpu_op::up,
            VCPUOP_down: Everybody => vcpu_op::down,
            VCPUOP_is_up: Everybody => vcpu_op::is_up,
            VCPUOP_get_runstate_info: Everybody => vcpu_op::get_runstate,
            VCPUOP_register_runstate_memory_area: Everybody => vcpu_op::register_runstate,
            VCPUOP_set_periodic_timer: Everybody => vcpu_op::set_periodic,
            VCPUOP_stop_periodic_timer: Everybody => vcpu_op::stop_periodic,
            VCPUOP_set_singleshot_timer: Everybody => vcpu_op::set_singleshot,
            VCPUOP_stop_singleshot_timer: Everybody => vcpu_op::stop_singleshot,
            VCPUOP_register_vcpu_info: Everybody => vcpu_op::register_info,
            VCPUOP_send_nmi: Everybody => vcpu_op::send_nmi,
            VCPUOP_get_physid: Everybody => vcpu_op::get_physid,
            VCPUOP_register_vcpu_time_memory_area: Everybody => vcpu_op::register_time,
        }
        __HYPERVISOR_sched_op {
            SCHEDOP_yield: Everybody => sched::give_way,
            SCHEDOP_block: Everybody => sched::block,
            SCHEDOP_shutdown: Everybody => sched::shutdown,
            SCHEDOP_poll: Everybody => sched::poll,
            SCHEDOP_remote_shutdown: HardwareDomain => domctl::remote_shutdown,
            SCHEDOP_shutdown_code: Everybody => sched::shutdown_code,
            SCHEDOP_watchdog: Everybody => sched::watchdog,
        }
        __HYPERVISOR_event_channel_op {
            EVTCHNOP_bind_interdomain: Everybody => event_channel::bind_interdomain,
            EVTCHNOP_bind_virq: Everybody => event_channel::bind_virq,
            // bind_pirq: lines reach dom0 through its I/O APIC
            EVTCHNOP_close: Everybody => event_channel::close,
            EVTCHNOP_send: Everybody => event_channel::send,
            EVTCHNOP_status: Everybody => event_channel::status,
            EVTCHNOP_alloc_unbound: Everybody => event_channel::alloc_unbound,
            EVTCHNOP_bind_ipi: Everybody => event_channel::bind_ipi,
            EVTCHNOP_bind_vcpu: Everybody => event_channel::bind_vcpu,
            EVTCHNOP_unmask: Everybody => event_channel::unmask,
            EVTCHNOP_reset: Everybody => event_channel::reset,
            EVTCHNOP_init_control: Everybody => event_channel::init_control,
            EVTCHNOP_expand_array: Everybody => event_channel::expand_array,
            EVTCHNOP_set_priority: Everybody => event_channel::set_priority,
        }
        __HYPERVISOR_physdev_op {
            PHYSDEVOP_manage_pci_add: HardwareDomain => physdev::manage_pci_add,
            PHYSDEVOP_manage_pci_remove: HardwareDomain => physdev::manage_pci_remove,
            PHYSDEVOP_manage_pci_add_ext: HardwareDomain => physdev::not_supported,
            PHYSDEVOP_setup_gsi: HardwareDomain => physdev::setup_gsi,
            PHYSDEVOP_pci_mmcfg_reserved: HardwareDomain => physdev::mmcfg_reserved,
            PHYSDEVOP_pci_device_add: HardwareDomain => physdev::device_add,
            PHYSDEVOP_pci_device_remove: HardwareDomain => physdev::device_remove,
        }
        __HYPERVISOR_hvm_op {
            HVMOP_set_param: Everybody => hvm::set_param,
            HVMOP_get_param: Everybody => hvm::get_param,
            HVMOP_flush_tlbs: Everybody => hvm::flush_tlbs,
            // pagetable_dying: success would bring a hypercall with the end of every process
            HVMOP_get_time: Everybody => hvm::get_time,
            HVMOP_get_mem_type: Everybody => hvm::get_mem_type,
            HVMOP_set_evtchn_upcall_vector: Everybody => hvm::set_upcall_vector,
        }
        __HYPERVISOR_sysctl {
            0: HardwareDomain => sysctl::handle,
        }
        __HYPERVISOR_domctl {
            0: HardwareDomain => domctl::handle,
        }
    };
    /// For each number its slots, one a sub-operation.
    const SLOTS: &'static [Slot<H>; SLOTS] = &slots(Self::ROWS);
    const SPANS: &'static [Span; NUMBERS] = &spans(Self::ROWS);
}

const NUMBERS: usize = NR_HYPERCALLS as usize;
/// Slots for all numbers together, most of them in use.
const SLOTS: usize = 256;

/// What is done for a number and a sub-operation: [`denied`] where no row says so.
type Slot<H> = (Handler<H>, Who);

/// Serves what no row has.
fn denied<H>(_: &mut Call<'_, H>) -> Answer {
    Err(Errno::ENOSYS.into())
}

/// The slots of a number.
#[derive(Clone, Copy)]
struct Span {
    /// Which bits of the first argument are the sub-operation: none, the lower half, or for memory_op fewer.
    mask: u32,
    first: u8,
    count: u8,
}

const fn sub_op_mask(number: u64) -> u32 {
    match number {
        __HYPERVISOR_platform_op
        | __HYPERVISOR_multicall
        | __HYPERVISOR_set_timer_op
        | __HYPERVISOR_sysctl
        | __HYPERVISOR_domctl => 0,
        __HYPERVISOR_memory_op => MEMOP_CMD_MASK as u32,
        _ => u32::MAX,
    }
}

/// Each number's slots follow those of the number before it.
const fn spans<H>(rows: &[Row<H>]) -> [Span; NUMBERS] {
    let mut spans = [Span {
        mask: 0,
        first: 0,
        count: 0,
    }; NUMBERS];
    let (mut number, mut first) = (0, 0);
    while number < NUMBERS {
        let mut count = 0;
        let mut at = 0;
        while at < rows.len() {
            let row = &rows[at];
            if row.number == number as u64 && row.sub_op >= count {
                count = row.sub_op + 1;
            }
            at += 1;
        }
        assert!(first as usize + (count as usize) < SLOTS, "too few slots");
        spans[number] = Span {
            mask: sub_op_mask(number as u64),
            first: first as u8,
            count: count as u8,
        };
        first += count;
        number += 1;
    }
    spans
}

const fn slots<H>(rows: &[Row<H>]) -> [Slot<H>; SLOTS] {
    let spans = spans(rows);
    let mut slots = [(denied as Handler<H>, Who::Everybody); SLOTS];
    let mut is_taken = [false; SLOTS];
    let mut at = 0;
    while at < rows.len() {
        let row = &rows[at];
        let slot = spans[row.number as usize].first as usize + row.sub_op as usize;
        assert!(!is_taken[slot], "two rows for one call");
        is_taken[slot] = true;
        slots[slot] = (row.serve, row.who);
        at += 1;
    }
    slots
}

/// Who may make hypercall `number` with this first argument, and what serves it.
///
/// # Errors
/// ENOSYS where no row has it.
#[inline(always)]
pub(super) fn find<H: VcpuHw>(
    number: u64,
    first_argument: u64,
) -> Result<(Handler<H>, Who), Errno> {
    let number = usize::try_from(number).map_err(|_| Errno::ENOSYS)?;
    let span = nospec::get_of::<{ nospec::HYPERCALLS }, _, NUMBERS>(Table::<H>::SPANS, number)
        .ok_or(Errno::ENOSYS)?;
    let sub_op = super::low(first_argument) & span.mask;
    if sub_op >= u32::from(span.count) {
        return Err(Errno::ENOSYS);
    }
    // below the number's count, so that the sum is a slot of its own; a byte is always one of the array's, and who may
    // comes with it, whatever the CPU guesses
    let slot = span.first.wrapping_add(sub_op as u8);
    Ok(Table::<H>::SLOTS[usize::from(slot)])
}
