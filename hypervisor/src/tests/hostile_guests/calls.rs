//! Hypercalls of guests: with anything, and such as are likely to be what they should be.

use guest_abi::event_channel::*;
use guest_abi::grant_table::*;
use guest_abi::hvm::hvm_op::{HVMOP_get_param, HVMOP_set_evtchn_upcall_vector, HVMOP_set_param};
use guest_abi::memory::*;
use guest_abi::sched::{SCHEDOP_block, SCHEDOP_poll, SCHEDOP_yield};
use guest_abi::xen::*;
use hv_core::x86::gpr;
use hv_hw::virt::GuestRegs;

use super::random::Random;

/// Bytes of a structure, in the order of its members.
#[derive(Default)]
struct Members(Vec<u8>);

impl Members {
    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn u32(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&(value as u32).to_le_bytes());
        self
    }
    fn u16(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&(value as u16).to_le_bytes());
        self
    }
}

/// Where the lists of a structure lie, after it.
const LIST: u64 = 0x100;

/// Registers of a hypercall with any arguments.
pub(crate) fn any(random: &mut Random, ids: &[u64], regs: &mut GuestRegs) {
    let number = match random.below(40) {
        0..=9 => __HYPERVISOR_memory_op,
        10..=17 => __HYPERVISOR_grant_table_op,
        18..=24 => __HYPERVISOR_event_channel_op,
        25..=27 => __HYPERVISOR_hvm_op,
        28 => __HYPERVISOR_sched_op,
        29..=31 => __HYPERVISOR_vcpu_op,
        32 => __HYPERVISOR_xen_version,
        33 => __HYPERVISOR_console_io,
        34 => __HYPERVISOR_multicall,
        35 => __HYPERVISOR_vm_assist,
        36 => __HYPERVISOR_set_timer_op,
        37 => random.of(&[
            __HYPERVISOR_physdev_op,
            __HYPERVISOR_sysctl,
            __HYPERVISOR_domctl,
            __HYPERVISOR_platform_op,
        ]),
        _ => random.below(NR_HYPERCALLS),
    };
    regs.set_rax(number);
    let pointer = pointer(random, ids);
    let mut few = |most| few(random, ids, most);
    let (first, second, third) = match number {
        __HYPERVISOR_multicall => (pointer, few(12), 0),
        __HYPERVISOR_memory_op => (few(34), pointer, 0),
        __HYPERVISOR_grant_table_op => (few(14), pointer, few(6)),
        __HYPERVISOR_vcpu_op => (few(16), few(3), pointer),
        __HYPERVISOR_console_io => (few(3), few(6000), pointer),
        _ => (few(34), pointer, few(64)),
    };
    regs.set_rdi(first);
    regs.set_rsi(second);
    regs.set_rdx(third);
    regs.set_r10(random.value(ids));
    regs.set_r8(random.value(ids));
}

/// Where 32-bit code has the arguments (EBX, ECX, EDX, ESI, EDI), and where 64-bit code has them.
const PLACES: [(usize, usize); 5] = [
    (gpr::RBX, gpr::RDI),
    (gpr::RCX, gpr::RSI),
    (gpr::RDX, gpr::RDX),
    (gpr::RSI, 10),
    (gpr::RDI, 8),
];

/// The same call made by 32-bit code, or any number with any arguments; what lies in the upper halves is nobody's.
pub(crate) fn narrow(random: &mut Random, ids: &[u64], regs: &mut GuestRegs) {
    let wide = regs.gpr;
    for register in &mut regs.gpr {
        *register = random.value(ids);
    }
    if random.one_in(4) {
        regs.set_rax(random.below(NR_HYPERCALLS));
        return;
    }
    let value = |value: u64, junk: u64| value & 0xFFFF_FFFF | junk << 32;
    regs.set_rax(value(wide[gpr::RAX], random.next()));
    for (to, from) in PLACES {
        regs.gpr[to] = value(wide[from], random.next());
    }
}

/// Mostly into what was scribbled.
fn pointer(random: &mut Random, ids: &[u64]) -> u64 {
    if random.one_in(30) {
        return random.value(ids);
    }
    let off = if random.one_in(8) {
        random.below(0x400)
    } else {
        0
    };
    0x1000 + random.below(4) * 0x400 + off
}

fn few(random: &mut Random, ids: &[u64], most: u64) -> u64 {
    if random.one_in(8) {
        random.value(ids)
    } else {
        random.below(most)
    }
}

/// A guest frame, mostly one that is its own.
fn gfn(random: &mut Random) -> u64 {
    if random.one_in(8) {
        random.value(&[1])
    } else {
        random.below(100)
    }
}

/// A call that is likely to be what it should be, of the guest `ids[me]`: its registers, and its arguments' bytes,
/// which are to lie at `at`.
pub(crate) fn sound(
    random: &mut Random,
    ids: &[u64],
    me: usize,
    at: u64,
    regs: &mut GuestRegs,
) -> Vec<u8> {
    let own = if random.one_in(2) {
        u64::from(DOMID_SELF)
    } else {
        ids[me]
    };
    let peer = ids[1 - me];
    let mut members = Members::default();
    regs.set_rsi(at);
    match random.below(24) {
        0..=6 | 23 => {
            regs.set_rax(__HYPERVISOR_memory_op);
            memory(random, (own, peer), at, (regs, &mut members));
        }
        7..=14 => {
            regs.set_rax(__HYPERVISOR_grant_table_op);
            grants(random, (own, peer), (ids, at), (regs, &mut members));
        }
        15..=18 => {
            regs.set_rax(__HYPERVISOR_event_channel_op);
            ports(random, (own, peer), (regs, &mut members));
        }
        19 => {
            regs.set_rax(__HYPERVISOR_hvm_op);
            let op = random.of(&[
                HVMOP_set_param,
                HVMOP_get_param,
                HVMOP_set_evtchn_upcall_vector,
            ]);
            regs.set_rdi(u64::from(op));
            if op == HVMOP_set_evtchn_upcall_vector {
                members.u32(random.below(3)).u32(random.below(256));
            } else {
                members.u16(own).u16(0).u32(random.below(42));
                members.u64(random.value(ids));
            }
        }
        20 | 21 => {
            regs.set_rax(__HYPERVISOR_vcpu_op);
            regs.set_rdi(random.below(14));
            regs.set_rsi(random.below(2));
            regs.set_rdx(at);
            if random.one_in(2) {
                members.u64(gfn(random)).u32(random.below(4096) & !7).u32(0);
            } else {
                members.u64(gfn(random).wrapping_mul(8));
                members.u64(random.value(ids));
            }
            members.u64(0);
        }
        _ => {
            regs.set_rax(__HYPERVISOR_sched_op);
            let op = random.of(&[SCHEDOP_yield, SCHEDOP_block, SCHEDOP_poll]);
            regs.set_rdi(u64::from(op));
            members.u64(at + LIST).u32(random.below(16)).u32(0);
            members.u64(random.value(ids)).0.resize(LIST as usize, 0);
            (0..16).for_each(|_| {
                members.u32(random.below(24));
            });
        }
    }
    members.0
}

fn memory(
    random: &mut Random,
    (own, peer): (u64, u64),
    at: u64,
    (regs, members): (&mut GuestRegs, &mut Members),
) {
    let op = random.of(&[
        XENMEM_populate_physmap,
        XENMEM_populate_physmap,
        XENMEM_decrease_reservation,
        XENMEM_decrease_reservation,
        XENMEM_increase_reservation,
        XENMEM_add_to_physmap,
        XENMEM_add_to_physmap_batch,
        XENMEM_remove_from_physmap,
        XENMEM_acquire_resource,
        XENMEM_current_reservation,
        XENMEM_memory_map,
    ]);
    regs.set_rdi(u64::from(op));
    let listed = |members: &mut Members, random: &mut Random, count| {
        members.0.resize(LIST as usize, 0);
        for _ in 0..count {
            members.u64(gfn(random));
        }
    };
    match op {
        XENMEM_add_to_physmap => {
            let space = random.below(6);
            let flag = if random.one_in(4) { 1 << 31 } else { 0 };
            let index = if space == 1 {
                random.below(6) | flag
            } else {
                gfn(random)
            };
            members.u16(own).u16(random.below(4)).u32(space);
            members.u64(index).u64(gfn(random));
        }
        XENMEM_add_to_physmap_batch => {
            let other = if random.one_in(2) { peer } else { 0 };
            members.u16(own).u16(random.below(6)).u16(random.below(8));
            members.u16(other).u64(at + LIST).u64(at + LIST + 0x80);
            members.u64(at + LIST + 0x100);
            listed(members, random, 32);
        }
        XENMEM_remove_from_physmap => {
            members.u16(own).u16(0).u32(0).u64(gfn(random));
        }
        XENMEM_populate_physmap | XENMEM_decrease_reservation | XENMEM_increase_reservation => {
            let order = if random.one_in(8) {
                random.below(20)
            } else {
                0
            };
            members.u64(at + LIST).u64(random.below(24)).u32(order);
            members.u32(0).u16(own).u16(0).u32(0);
            listed(members, random, 24);
        }
        _ => {
            members.u16(own).u16(random.below(4)).u32(random.below(4));
            members.u32(random.below(6)).u32(0).u64(random.below(8));
            members.u64(at + LIST);
        }
    }
}

fn grants(
    random: &mut Random,
    (own, peer): (u64, u64),
    (ids, at): (&[u64], u64),
    (regs, members): (&mut GuestRegs, &mut Members),
) {
    let op = random.of(&[
        GNTTABOP_map_grant_ref,
        GNTTABOP_map_grant_ref,
        GNTTABOP_map_grant_ref,
        GNTTABOP_unmap_grant_ref,
        GNTTABOP_unmap_grant_ref,
        GNTTABOP_unmap_and_replace,
        GNTTABOP_copy,
        GNTTABOP_copy,
        GNTTABOP_setup_table,
        GNTTABOP_query_size,
        GNTTABOP_set_version,
        GNTTABOP_get_version,
        GNTTABOP_swap_grant_ref,
        GNTTABOP_cache_flush,
    ]);
    let count = 1 + random.below(6);
    regs.set_rdi(u64::from(op));
    regs.set_rdx(count);
    for _ in 0..count {
        match op {
            GNTTABOP_map_grant_ref => {
                let flags = match random.below(10) {
                    0 => u64::from(random.word(ids)),
                    1..=6 => u64::from(GNTMAP_host_map),
                    _ => random.of(&[6, 0x12]),
                };
                let of = if random.one_in(8) {
                    random.domid(ids)
                } else {
                    peer
                };
                members.u64(gfn(random) << 12).u32(flags);
                members.u32(random.below(64)).u16(of).u16(0).u32(0).u64(0);
            }
            GNTTABOP_unmap_grant_ref | GNTTABOP_unmap_and_replace => {
                let new = if random.one_in(9) {
                    random.value(ids)
                } else {
                    0
                };
                members.u64(random.below(100) << 12).u64(new);
                members.u32(random.below(20)).u32(0);
            }
            GNTTABOP_copy => {
                let flags = random.below(4);
                for is_ref in [flags & 1 != 0, flags & 2 != 0] {
                    let (place, of) = if is_ref {
                        (random.below(64), peer)
                    } else {
                        (gfn(random), own)
                    };
                    members.u64(place).u16(of).u16(random.below(4096)).u32(0);
                }
                members.u16(random.below(4200)).u16(flags).u32(0);
            }
            GNTTABOP_swap_grant_ref => {
                members.u32(random.below(70)).u32(random.below(70)).u64(0);
            }
            _ => {
                members.u16(own).u16(0).u32(random.below(6)).u64(0);
                members.u64(at + LIST);
            }
        }
    }
}

fn ports(
    random: &mut Random,
    (own, peer): (u64, u64),
    (regs, members): (&mut GuestRegs, &mut Members),
) {
    let op = match random.below(15) as u32 {
        EVTCHNOP_reset if !random.one_in(8) => EVTCHNOP_bind_interdomain,
        op => op,
    };
    regs.set_rdi(u64::from(op));
    let (port, vcpu) = (random.below(24), random.below(3));
    match op {
        EVTCHNOP_bind_interdomain => members.u16(peer).u16(0).u32(port).u32(0),
        EVTCHNOP_bind_virq => members.u32(random.below(24)).u32(vcpu).u32(0),
        EVTCHNOP_status => members.u16(own).u16(0).u32(port).u64(0),
        EVTCHNOP_alloc_unbound => {
            let with = if random.one_in(4) { own } else { peer };
            members.u16(own).u16(with).u32(0)
        }
        EVTCHNOP_bind_ipi => members.u32(vcpu).u32(0),
        EVTCHNOP_reset => members.u16(own).u16(0),
        EVTCHNOP_init_control => {
            let offset = random.below(0x1FF) * 8;
            members.u64(gfn(random)).u32(offset).u32(vcpu).u64(0)
        }
        EVTCHNOP_expand_array => members.u64(gfn(random)),
        EVTCHNOP_bind_vcpu | EVTCHNOP_set_priority => members.u32(port).u32(random.below(17)),
        _ => members.u32(port).u32(0),
    };
}
