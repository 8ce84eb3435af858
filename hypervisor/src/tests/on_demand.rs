//! Memory that is populated on demand: who touches it brings it, whose balloon gives it back, and what becomes of a
//! guest that touches more than it has.

use hv_hw::sync::atomic::Ordering;
use std::sync::Arc;

use crate::domain::destroy::{self, Progress};
use crate::domain::vcpu::Requests;
use crate::domain::{Domain, ShutdownReason, grants, pod, soft_reset, space};
use crate::exit;
use crate::guest_mem::{self as guest, DomainMemory};
use crate::machine::memory;
use crate::pcpu::Pcpu;
use crate::runner::Runner;
use crate::tests::common::{fake, known_guest, prepare, vcpu_of};
use guest_abi::errno::Errno;
use guest_abi::grant_table::{GTF_permit_access, GTF_readonly};
use guest_abi::version::XENVER_extraversion;
use guest_abi::xen::{__HYPERVISOR_multicall, __HYPERVISOR_xen_version, MulticallEntry};
use hv_core::addr::{Gfn, Gpa, PageOrder};
use hv_core::domid::DomId;
use hv_core::grant::{CopyRequest, CopySide, GrantRef, MapRequest, Want};
use hv_core::mem::{GuestMem, SharedWords};
use hv_core::p2m::{P2mKind, PodCounts};
use hv_hw::direct_map::{DirectTables, SharedFrame};
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{Stage2Access, Stage2Fault, VcpuHw, VmExit};
use zerocopy::IntoBytes;

/// Where a guest's memory begins that is populated on demand.
const START: u64 = 0x400;
const BLOCK: u64 = PageOrder::SIZE_2M.frames();

fn gfn(page: u64) -> Gfn {
    Gfn::new(START + page)
}

fn gpa(page: u64) -> Gpa {
    gfn(page).base()
}

/// A guest with so many blocks to populate, and a target of so many pages.
fn guest_with(blocks: u64, target: u64) -> Arc<Domain> {
    let domain = known_guest();
    space::set_max_pages(&domain, target);
    while !pod::set_target(&domain, target).unwrap() {}
    for block in 0..blocks {
        pod::mark(&domain, gfn(block * BLOCK), PageOrder::SIZE_2M).unwrap();
    }
    domain
}

fn end(domain: &Arc<Domain>) {
    let mut hw = FakeVcpu::default();
    while destroy::step(domain, &mut hw) != Progress::Done {}
    destroy::reap();
}

fn counts(domain: &Domain) -> (u64, u64) {
    let PodCounts {
        outstanding,
        cached,
    } = pod::counts(domain);
    (outstanding, cached)
}

/// The frame behind a page that is there.
fn frame(domain: &Domain, page: u64) -> Option<SharedFrame> {
    let entry = domain.p2m.lock().lookup(&DirectTables, gfn(page))?;
    SharedFrame::new(entry.mfn)
}

type Machine = (Runner<FakeVcpu>, Pcpu);

/// The guest writes to a page, as often as it takes; how many exits that is.
fn write((runner, pcpu): &mut Machine, page: u64, value: u64) -> u32 {
    let fault = Stage2Fault {
        gpa: gpa(page),
        linear: None,
        access: Stage2Access::WRITE,
    };
    let domain = runner.domain.clone();
    let rip = runner.hw.rip();
    for exits in 0..10_000 {
        if let Some(frame) = frame(&domain, page) {
            frame.write_bytes(0, value.as_bytes());
            return exits;
        }
        if domain.shutdown_reason().is_some() {
            return exits;
        }
        let _ = exit::handle(runner, pcpu, VmExit::Stage2Fault(fault));
        assert_eq!((runner.hw.rip(), runner.raised), (rip, None), "tried again");
    }
    panic!("a page is never there");
}

#[test]
fn what_is_not_touched_takes_no_memory_and_all_comes_back() {
    prepare();
    let before = memory::free_frames();
    let domain = guest_with(4, 700);
    assert_eq!(counts(&domain), (4 * BLOCK, 700));
    assert_eq!(domain.pages(), 700);
    let taken = before - memory::free_frames();
    assert!((700..740).contains(&taken), "{taken} frames");
    let mut machine = vcpu_of(domain.clone());
    // a block as a whole, then single pages
    assert_eq!(write(&mut machine, 3, 1), 1);
    assert_eq!(counts(&domain), (3 * BLOCK, 700 - BLOCK));
    assert_eq!(write(&mut machine, 3 * BLOCK, 1), 1);
    assert_eq!(counts(&domain), (3 * BLOCK - 1, 700 - BLOCK - 1));
    assert_eq!(domain.pages(), 700);
    drop(machine);
    end(&domain);
    let id = domain.id;
    drop(domain);
    assert_eq!(memory::charged(id), 0);
    assert_eq!(memory::free_frames(), before);
}

#[test]
fn what_the_hypervisor_and_others_touch_is_there() {
    prepare();
    let (domain, other) = (guest_with(1, 100), known_guest());
    let (runner, _pcpu) = vcpu_of(domain.clone());
    let mut hw = FakeVcpu::default();
    {
        let mut memory = DomainMemory::lock(&domain, &runner.tlb);
        // over the border of two pages
        memory.write(gpa(0) + 4092, &[7; 8]).unwrap();
        let mut bytes = [1; 4];
        memory.read(gpa(9), &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4]);
    }
    assert_eq!(counts(&domain).1, 97);
    assert_eq!(frame(&domain, 1).unwrap().load_u32(0), 0x0707_0707);
    drop(guest::pin(&domain, gfn(20)).unwrap());
    space::map_foreign(&mut hw, (&other, gfn(0)), (&domain, gfn(21))).unwrap();
    let table = SharedFrame::new(grants::frame(&domain, 0).unwrap()).unwrap();
    let flags = u32::from(GTF_permit_access | GTF_readonly);
    table.store_u32(4, u32::try_from(gfn(22).as_u64()).unwrap());
    table.store_u32(0, flags | u32::from(other.id.get()) << 16);
    let request = MapRequest {
        granter: domain.id.get(),
        reference: GrantRef::new(0),
        want: Want::Read,
        gfn: gfn(1),
    };
    let handle = grants::map(&mut hw, &other, domain.clone(), &request);
    assert!(handle.is_ok());
    let own = |page| CopySide::Own {
        gfn: gfn(page),
        offset: 0,
    };
    frame(&domain, 21).unwrap().store_u32(0, 99);
    let copy = CopyRequest {
        source: own(21),
        dest: own(30),
        len: 4,
    };
    grants::copy(&domain, &copy).unwrap();
    assert_eq!(frame(&domain, 30).unwrap().load_u32(0), 99);
    for page in [20, 21, 22, 30] {
        assert!(frame(&domain, page).is_some(), "page {page}");
    }
    assert_eq!(counts(&domain), (BLOCK - 7, 93));
    drop(runner);
    end(&other);
    end(&domain);
}

#[test]
fn what_a_balloon_gives_up_is_kept_for_what_is_yet_to_be_touched() {
    prepare();
    let domain = guest_with(2, 300);
    let mut machine = vcpu_of(domain.clone());
    let mut hw = FakeVcpu::default();
    for page in 0..100 {
        write(&mut machine, page, page);
    }
    assert_eq!(counts(&domain), (2 * BLOCK - 100, 200));
    // a page of its own, which holds something
    space::release(&mut hw, &domain, gfn(5)).unwrap();
    assert_eq!(counts(&domain), (2 * BLOCK - 100, 201));
    assert_eq!(domain.pages(), 300);
    // one that others use goes when they are done
    let other = known_guest();
    space::map_foreign(&mut hw, (&other, gfn(0)), (&domain, gfn(6))).unwrap();
    space::release(&mut hw, &domain, gfn(6)).unwrap();
    assert_eq!(counts(&domain).1, 201);
    space::unmap(&mut hw, &other, gfn(0)).unwrap();
    assert_eq!(domain.pages(), 299);
    // what it never had: no more is kept than may be wanted
    space::release_block(&mut hw, &domain, gfn(BLOCK), PageOrder::SIZE_2M).unwrap();
    assert_eq!(counts(&domain), (BLOCK - 100, 201));
    for page in 200..BLOCK {
        space::release(&mut hw, &domain, gfn(page)).unwrap();
    }
    assert_eq!(counts(&domain), (100, 100));
    assert_eq!(domain.pages(), 198);
    assert!(space::release(&mut hw, &domain, gfn(200)).is_err());
    // no frame is left dirty
    for page in 100..200 {
        write(&mut machine, page, 0);
        assert_eq!(frame(&domain, page).unwrap().load_u32(0), 0);
    }
    assert_eq!(counts(&domain), (0, 0));
    space::release(&mut hw, &domain, gfn(7)).unwrap();
    assert_eq!(domain.pages(), 197, "nothing is to be touched any longer");
    drop(machine);
    end(&other);
    end(&domain);
}

#[test]
fn pages_that_are_all_zeroes_are_taken_back_behind_a_flush() {
    prepare();
    let domain = guest_with(1, 40);
    let mut machine = vcpu_of(domain.clone());
    for page in 0..40 {
        write(&mut machine, page, u64::from(page % 4 == 0));
    }
    assert_eq!(counts(&domain), (BLOCK - 40, 0));
    // in nobody else's use
    let pinned = guest::pin(&domain, gfn(1)).unwrap();
    assert!(!domain.vcpus[0].requests().contains(Requests::FLUSH));
    write(&mut machine, 100, 1);
    assert!(domain.vcpus[0].requests().contains(Requests::FLUSH));
    assert!(frame(&domain, 1).is_some() && frame(&domain, 2).is_none());
    for page in (0..40).step_by(4) {
        assert_eq!(frame(&domain, page).unwrap().load_u32(0), 1, "page {page}");
    }
    assert_eq!(domain.pages(), 40);
    assert_eq!(domain.shutdown_reason(), None);
    drop(pinned);
    drop(machine);
    end(&domain);
}

#[test]
fn guest_that_touches_more_than_it_has_ends_and_no_exit_of_it_is_long() {
    prepare();
    let target = 3000;
    let domain = guest_with(8, target);
    let mut machine = vcpu_of(domain.clone());
    for page in 0..target {
        write(&mut machine, page, page + 1);
    }
    assert_eq!((domain.shutdown_reason(), counts(&domain).1), (None, 0));
    let exits = write(&mut machine, target, 1);
    assert!((3..100).contains(&exits), "{exits} exits");
    assert_eq!(domain.shutdown_reason(), Some(ShutdownReason::Crash));
    drop(machine);
    end(&domain);
}

/// A hypercall whose buffer is to be populated.
fn extraversion(machine: &mut Machine, page: u64) -> Option<u64> {
    let regs = machine.0.hw.regs();
    regs.set_rax(__HYPERVISOR_xen_version);
    regs.set_rdi(u64::from(XENVER_extraversion));
    regs.set_rsi(gpa(page).as_u64());
    call(machine)
}

fn call((runner, pcpu): &mut Machine) -> Option<u64> {
    let before = runner.hw.rip();
    let _ = exit::handle(runner, pcpu, VmExit::Hypercall);
    (runner.hw.rip() != before).then(|| runner.hw.regs().rax())
}

/// A vCPU without paging, so that its pointers are addresses of its memory.
fn unpaged(domain: &Arc<Domain>) -> Machine {
    let mut machine = vcpu_of(domain.clone());
    let hw = fake(
        domain,
        0,
        &crate::domain::vcpu_frames::VcpuFrames::alloc().unwrap(),
        &domain.policies(),
    );
    machine.0.hw.system = hw.system;
    machine
}

#[test]
fn hypercalls_buffer_is_populated_and_the_call_made_again_until_it_can_be() {
    prepare();
    let domain = guest_with(14, 6200);
    let mut machine = unpaged(&domain);
    assert_eq!(extraversion(&mut machine, 1), Some(0));
    assert_eq!(counts(&domain).1, 6200 - BLOCK);
    for page in 0..6200 {
        write(&mut machine, page, 1);
    }
    assert_eq!(counts(&domain).1, 0);
    // one page is free to take, but it is further than one call looks
    write(&mut machine, 6100, 0);
    assert_eq!(extraversion(&mut machine, 6500), None);
    assert!(domain.vcpus[0].requests().contains(Requests::RELIEVE));
    assert_eq!(call(&mut machine), Some(0));
    assert!(frame(&domain, 6500).is_some() && frame(&domain, 6100).is_none());
    // there is none: the same, and the end before the guest goes on
    let _ = domain.vcpus[0].take_requests(Requests::RELIEVE);
    for _ in 0..3 {
        assert_eq!(extraversion(&mut machine, 6600), None);
        pod::relieve(&domain);
    }
    assert_eq!(domain.shutdown_reason(), Some(ShutdownReason::Crash));
    let _ = domain.vcpus[0].take_requests(Requests::RELIEVE);
    // where nothing is, nothing is looked for
    let fault = Errno::EFAULT.to_rax();
    assert_eq!(extraversion(&mut machine, 20 * BLOCK), Some(fault));
    drop(machine);
    end(&domain);
}

#[test]
fn call_in_a_batch_whose_buffer_cannot_be_populated_is_made_again_as_well() {
    prepare();
    let domain = guest_with(1, 2);
    let mut machine = unpaged(&domain);
    let mut entry = MulticallEntry {
        op: __HYPERVISOR_xen_version,
        ..Default::default()
    };
    entry.args[0] = u64::from(XENVER_extraversion);
    entry.args[1] = gpa(7).as_u64();
    write(&mut machine, 0, 0);
    frame(&domain, 0).unwrap().write_bytes(0, entry.as_bytes());
    write(&mut machine, 1, 1);
    let regs = machine.0.hw.regs();
    regs.set_rax(__HYPERVISOR_multicall);
    regs.set_rdi(gpa(0).as_u64());
    regs.set_rsi(1);
    assert_eq!(call(&mut machine), None);
    assert_eq!(machine.0.hw.regs().rsi(), 1);
    pod::relieve(&domain);
    assert_eq!(domain.shutdown_reason(), Some(ShutdownReason::Crash));
    drop(machine);
    end(&domain);
}

#[test]
fn no_page_that_was_taken_back_is_remembered_in_the_same_copy() {
    prepare();
    let domain = guest_with(1, 10);
    let mut machine = vcpu_of(domain.clone());
    for page in 0..10 {
        write(&mut machine, page, u64::from(page > 0));
    }
    let mut memory = DomainMemory::lock(&domain, &machine.0.tlb);
    let mut byte = [9];
    memory.read(gpa(0), &mut byte).unwrap();
    // takes the page back that was just read
    memory.write(gpa(20), &[5]).unwrap();
    assert!(memory.read(gpa(0), &mut byte).is_err());
    drop(memory);
    drop(machine);
    end(&domain);
}

#[test]
fn target_of_a_running_guest_is_what_its_balloon_goes_to() {
    prepare();
    let domain = guest_with(2, 600);
    let mut machine = vcpu_of(domain.clone());
    write(&mut machine, 0, 1);
    space::set_max_pages(&domain, 800);
    while !pod::set_target(&domain, 800).unwrap() {}
    assert_eq!((domain.pages(), counts(&domain).1), (800, 800 - BLOCK));
    while !pod::set_target(&domain, 100).unwrap() {}
    assert_eq!(domain.pages(), 800, "it comes down by itself");
    space::set_max_pages(&domain, 900);
    let mut steps = (0..100).map(|_| pod::set_target(&domain, 950));
    assert!(steps.any(|step| step.is_err()), "beyond its limit");
    assert_eq!(domain.pages(), 900);
    space::set_max_pages(&domain, 5000);
    while !pod::set_target(&domain, 5000).unwrap() {}
    assert_eq!(domain.pages(), 2 * BLOCK, "no more than it may touch");
    assert_eq!(counts(&domain), (BLOCK, BLOCK));
    drop(machine);
    end(&domain);
}

#[test]
fn a_soft_reset_keeps_what_is_populated_and_what_is_yet_to_be() {
    prepare();
    let domain = guest_with(1, 100);
    let mut machine = vcpu_of(domain.clone());
    write(&mut machine, 0, 1);
    let mut hw = FakeVcpu::default();
    let info = domain.shared_info.mfn();
    space::map_special(&mut hw, &domain, info, gfn(5)).unwrap();
    assert_eq!(counts(&domain), (BLOCK - 2, 99));
    let entry = domain.p2m.lock().lookup(&DirectTables, gfn(5)).unwrap();
    assert_eq!(entry.kind, P2mKind::Special);
    domain.limits.max_pages.fetch_add(1, Ordering::Relaxed);
    soft_reset::forget_kernel(&domain, &mut hw).unwrap();
    assert_eq!(counts(&domain), (BLOCK - 2, 99));
    write(&mut machine, 5, 1);
    drop(machine);
    end(&domain);
}

#[test]
fn nothing_is_promised_to_who_owns_the_machine_or_ends() {
    prepare();
    let dom0 = crate::tests::common::domain(0, crate::domain::create::DomainConfig::dom0(1));
    assert_eq!(dom0.id, DomId::DOM0);
    assert!(pod::mark(&dom0, gfn(0), PageOrder::SIZE_4K).is_err());
    let domain = guest_with(1, 10);
    let mut hw = FakeVcpu::default();
    let _ = destroy::step(&domain, &mut hw);
    assert!(pod::mark(&domain, gfn(BLOCK), PageOrder::SIZE_4K).is_err());
    assert_eq!(pod::set_target(&domain, 10), Ok(true));
    let mut p2m = domain.p2m.lock();
    assert!(!pod::bring(&domain, &mut p2m, gfn(0)));
    drop(p2m);
    end(&domain);
}
