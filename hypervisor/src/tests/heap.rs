//! What guests can take of the hypervisor's heap: a part, whatever they do, and never what others need.

use std::sync::Arc;

use crate::domain::create::DomainConfig;
use crate::domain::destroy::{self, Progress};
use crate::domain::{Domain, grants, space};
use crate::exit;
use crate::tests::common::{HEAP_BYTES, domain, give_ram, known_guest, one_vcpu, prepare};
use guest_abi::errno::Errno;
use guest_abi::event_channel::{
    EVTCHNOP_alloc_unbound, EVTCHNOP_reset, EvtchnAllocUnbound, EvtchnReset,
};
use guest_abi::grant_table::GTF_permit_access;
use guest_abi::xen::{__HYPERVISOR_event_channel_op, DOMID_SELF};
use hv_core::addr::{Gfn, PageOrder};
use hv_core::grant::{GrantError, GrantRef, MapRequest, Want};
use hv_core::mem::SharedWords;
use hv_hw::direct_map::SharedFrame;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{VcpuHw, VmExit};
use zerocopy::IntoBytes;

/// One guest's share, and what every guest gets.
const MOST: usize = HEAP_BYTES / 8;
const LITTLE: usize = 128 << 10;

/// Lets the domain map its page 1 by grant 0.
fn grant_to_itself(domain: &Domain) {
    space::set_max_pages(domain, 1 << 20);
    space::populate(domain, Gfn::new(1), PageOrder::SIZE_4K).unwrap();
    let table = SharedFrame::new(grants::frame(domain, 0).unwrap()).unwrap();
    table.store_u32(4, 1);
    table.store_u32(
        0,
        u32::from(GTF_permit_access) | u32::from(domain.id.get()) << 16,
    );
}

/// Maps that page at one place after the other, until it is refused.
fn map_for_ever(domain: &Arc<Domain>) -> (u64, GrantError) {
    let mut hw = FakeVcpu::default();
    let mut map = |nth| {
        let request = MapRequest {
            granter: domain.id.get(),
            reference: GrantRef::new(0),
            want: Want::Read,
            gfn: Gfn::new(0x10_0000 + nth),
        };
        grants::map(&mut hw, domain, domain.clone(), &request).err()
    };
    (0..)
        .find_map(|nth| map(nth).map(|error| (nth, error)))
        .unwrap()
}

fn end(guests: impl IntoIterator<Item = Arc<Domain>>) {
    let mut hw = FakeVcpu::default();
    for guest in guests {
        while destroy::step(&guest, &mut hw) != Progress::Done {}
    }
    destroy::reap();
}

#[test]
fn guest_that_maps_for_ever_gets_an_eighth_of_the_heap() {
    prepare();
    let guest = known_guest();
    grant_to_itself(&guest);
    let (mapped, refusal) = map_for_ever(&guest);
    assert_eq!(refusal, GrantError::NoSpace);
    assert!(mapped > 20_000 && mapped < 100_000, "{mapped} mappings");
    let bytes = guest.heap.bytes();
    assert!(bytes <= MOST && bytes > MOST - 16_384, "{bytes} bytes");
    end([guest]);
}

#[test]
fn grant_frames_are_part_of_the_share() {
    prepare();
    let number = crate::domain::registry::reserve(None).unwrap();
    let config = DomainConfig {
        max_grant_frames: 1024,
        ..crate::tests::common::guest_config(1)
    };
    let guest = domain(number.id().get(), config);
    let made = (0..1024).take_while(|index| grants::frame(&guest, *index).is_ok());
    let made = made.count();
    assert!(made > 64 && made < 128, "{made} frames");
    assert!(guest.heap.bytes() <= MOST);
    end([guest]);
}

#[test]
fn guests_together_get_a_half_and_each_a_little_in_any_case() {
    prepare();
    let guests: Vec<_> = (0..5).map(|_| known_guest()).collect();
    for guest in &guests[..4] {
        assert!(guest.heap.charge(MOST));
        assert!(!guest.heap.charge(1));
    }
    let late = &guests[4];
    assert!(late.heap.charge(LITTLE));
    assert!(!late.heap.charge(1), "all guests have a half");
    let dom0 = domain(0, DomainConfig::dom0(1));
    assert!(dom0.heap.charge(MOST * 2));
    guests[0].heap.uncharge(MOST / 2);
    assert!(late.heap.charge(4096));
    end(guests);
    let guest = known_guest();
    assert!(guest.heap.charge(MOST), "what the dead had is free");
    end([guest]);
}

#[test]
fn ports_are_part_of_the_share_until_they_are_reset() {
    prepare();
    let (mut runner, mut pcpu) = one_vcpu();
    let ram = give_ram(&runner.domain, 1);
    let guest = known_guest();
    let mut call = |op: u32, arg: &[u8]| {
        ram[0].write_bytes(0, arg);
        let regs = runner.hw.regs();
        regs.set_rax(__HYPERVISOR_event_channel_op);
        regs.set_rdi(u64::from(op));
        regs.set_rsi(0);
        let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hypercall);
        runner.hw.regs().rax()
    };
    let port = EvtchnAllocUnbound {
        dom: guest.id.get(),
        remote_dom: DOMID_SELF,
        port: 0,
    };
    assert!(guest.heap.charge(MOST));
    let refused = call(EVTCHNOP_alloc_unbound, port.as_bytes());
    assert_eq!(refused, Errno::ENOMEM.to_rax());
    guest.heap.uncharge(MOST);
    for _ in 0..300 {
        assert_eq!(call(EVTCHNOP_alloc_unbound, port.as_bytes()), 0);
    }
    let two_chunks = guest.heap.bytes();
    assert_eq!(two_chunks, guest.events.lock().port_bytes());
    assert!(
        two_chunks > 0 && two_chunks < 32 << 10,
        "{two_chunks} bytes"
    );
    let reset = EvtchnReset {
        dom: guest.id.get(),
    };
    assert_eq!(call(EVTCHNOP_reset, reset.as_bytes()), 0);
    assert_eq!(guest.heap.bytes(), 0);
    end([guest]);
}
