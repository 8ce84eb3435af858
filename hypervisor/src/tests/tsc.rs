//! A guest's TSC: at the host's rate without exits, or emulated, at that rate or another.

use std::sync::Arc;

use crate::domain::Domain;
use crate::domain::destroy::{self, Progress};
use crate::exit;
use crate::machine::host;
use crate::pcpu::Pcpu;
use crate::runner::Runner;
use crate::tests::common::{TSC_KHZ, give_ram, known_guest, one_vcpu, prepare, vcpu_of};
use guest_abi::domctl::{
    XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_gettscinfo, XEN_DOMCTL_settscinfo, XenDomctl,
    XenDomctlTscInfo,
};
use guest_abi::errno::Errno;
use guest_abi::xen::__HYPERVISOR_domctl;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{VcpuHw, VmExit};
use hv_hw::{hosted::Clock, time};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const IA32_TSC: u32 = 0x10;
const IA32_TSC_DEADLINE: u32 = 0x6E0;

/// DOMCTL_settscinfo or gettscinfo by dom0: its result, and what is in the body then.
fn tsc_info(cmd: u32, guest: &Domain, body: XenDomctlTscInfo) -> (u64, XenDomctlTscInfo) {
    let (mut runner, mut pcpu) = one_vcpu();
    let ram = give_ram(&runner.domain, 1);
    let mut domctl = XenDomctl::new_zeroed();
    domctl.cmd = cmd;
    domctl.interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    domctl.domain = guest.id.get();
    body.write_to_prefix(domctl.u.as_mut_bytes()).unwrap();
    ram[0].write_bytes(0, domctl.as_bytes());
    let regs = runner.hw.regs();
    regs.set_rax(__HYPERVISOR_domctl);
    regs.set_rdi(0);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hypercall);
    ram[0].read_bytes(0, domctl.as_mut_bytes());
    let (body, _) = XenDomctlTscInfo::read_from_prefix(domctl.u.as_bytes()).unwrap();
    (runner.hw.regs().rax(), body)
}

fn set(guest: &Domain, tsc_mode: u32, gtsc_khz: u32) -> u64 {
    let body = XenDomctlTscInfo {
        tsc_mode,
        gtsc_khz,
        incarnation: 4,
        ..XenDomctlTscInfo::default()
    };
    tsc_info(XEN_DOMCTL_settscinfo, guest, body).0
}

fn end(guest: &Arc<Domain>) {
    let mut hw = FakeVcpu::default();
    while destroy::step(guest, &mut hw) != Progress::Done {}
    destroy::reap();
}

type Machine = (Runner<FakeVcpu>, Pcpu);

/// EDX:EAX and ECX of RDTSC or RDTSCP.
fn rdtsc((runner, pcpu): &mut Machine, with_aux: bool) -> (u64, u64) {
    let regs = runner.hw.regs();
    for set in [
        hv_hw::virt::GuestRegs::set_rax,
        hv_hw::virt::GuestRegs::set_rdx,
        hv_hw::virt::GuestRegs::set_rcx,
    ] {
        set(regs, u64::MAX);
    }
    let _ = exit::handle(runner, pcpu, VmExit::ReadTsc { with_aux });
    let regs = runner.hw.regs();
    assert!(regs.rax() <= u64::from(u32::MAX) && regs.rdx() <= u64::from(u32::MAX));
    (regs.rdx() << 32 | regs.rax(), regs.rcx())
}

fn wrmsr((runner, pcpu): &mut Machine, msr: u32, value: u64) {
    let regs = runner.hw.regs();
    regs.set_rcx(msr.into());
    regs.set_rax(value & u64::from(u32::MAX));
    regs.set_rdx(value >> 32);
    let _ = exit::handle(runner, pcpu, VmExit::Wrmsr);
    assert_eq!(runner.raised, None);
}

fn rdmsr((runner, pcpu): &mut Machine, msr: u32) -> u64 {
    runner.hw.regs().set_rcx(msr.into());
    let _ = exit::handle(runner, pcpu, VmExit::Rdmsr);
    let regs = runner.hw.regs();
    regs.rdx() << 32 | regs.rax()
}

#[test]
fn reads_exit_where_the_tsc_is_to_be_emulated_and_not_else() {
    prepare();
    let guest = known_guest();
    let (mut runner, mut pcpu) = vcpu_of(guest.clone());
    for (mode, khz, exits) in [
        (1, 0, true),
        (0, 0, false),
        (0, TSC_KHZ, false),
        (0, TSC_KHZ / 2, true),
        (2, TSC_KHZ / 2, false),
        (1, TSC_KHZ * 3, true),
        (2, 0, false),
    ] {
        assert_eq!(set(&guest, mode, khz), 0);
        runner.reconsider(&mut pcpu);
        assert_eq!(runner.hw.intercepts_tsc, exits, "mode {mode}, {khz} kHz");
    }
    assert_eq!(set(&guest, 3, 0), Errno::EINVAL.to_rax());
    drop(runner);
    end(&guest);
}

#[test]
fn what_is_told_of_it_is_what_was_set() {
    prepare();
    let _clock = Clock::take_over();
    let guest = known_guest();
    let get = || tsc_info(XEN_DOMCTL_gettscinfo, &guest, XenDomctlTscInfo::default()).1;
    assert_eq!((get().tsc_mode, get().incarnation), (0, 1));
    assert_eq!(set(&guest, 1, 0), 0);
    let before = get();
    Clock::advance(time::ns_to_ticks(1_000_000));
    let after = get();
    assert_eq!((after.tsc_mode, after.gtsc_khz), (1, TSC_KHZ));
    assert_eq!(after.incarnation, 5);
    assert_eq!(after.elapsed_nsec - before.elapsed_nsec, 1_000_000);
    assert_eq!(set(&guest, 2, 0), 0);
    assert_eq!((get().gtsc_khz, get().elapsed_nsec), (0, 0));
    end(&guest);
}

#[test]
fn emulated_tsc_counts_at_its_rate_and_the_guests_clock_with_it() {
    prepare();
    let _clock = Clock::take_over();
    for khz in [0, 1_000_000, 3_333_333] {
        let guest = known_guest();
        Clock::advance(12_345_678);
        assert_eq!(set(&guest, 1, khz), 0);
        let mut machine = vcpu_of(guest.clone());
        machine.0.reconsider(&mut machine.1);
        let khz = if khz == 0 { TSC_KHZ } else { khz };
        let begin = rdtsc(&mut machine, false).0;
        Clock::advance(time::ns_to_ticks(2_000_000_000));
        let (now, aux) = rdtsc(&mut machine, true);
        let counted = now - begin;
        let expected = u64::from(khz) * 2000;
        assert!(counted.abs_diff(expected) <= 1, "{counted} at {khz} kHz");
        assert_eq!((now, aux), (rdmsr(&mut machine, IA32_TSC), 0));
        let off = guest.clock().ns_at(now).abs_diff(host::now_ns());
        assert!(off < 100, "{off} ns at {khz} kHz");
        // moved by the guest
        let ahead = now + 1_000_000;
        wrmsr(&mut machine, IA32_TSC, ahead);
        assert_eq!(rdtsc(&mut machine, false).0, ahead);
        let off = guest.vcpus[0].clock(&guest).ns_at(ahead);
        assert!(off.abs_diff(host::now_ns()) < 100);
        drop(machine);
        end(&guest);
    }
}

#[test]
fn deadline_of_the_apics_timer_is_in_the_guests_own_ticks() {
    prepare();
    let _clock = Clock::take_over();
    let guest = known_guest();
    assert_eq!(set(&guest, 1, TSC_KHZ / 2), 0);
    let mut machine = vcpu_of(guest.clone());
    machine.0.reconsider(&mut machine.1);
    // the timer's entry: TSC-deadline mode, vector 0x40
    wrmsr(&mut machine, 0x1B, 0xFEE0_0D00);
    wrmsr(&mut machine, 0x80F, 0x1FF);
    wrmsr(&mut machine, 0x832, 2 << 17 | 0x40);
    let now = rdtsc(&mut machine, false).0;
    wrmsr(&mut machine, IA32_TSC_DEADLINE, now + 5000);
    assert!(rdmsr(&mut machine, IA32_TSC_DEADLINE).abs_diff(now + 5000) <= 1);
    let own = machine.0.domain_tsc();
    assert_eq!(
        machine.0.lapic.tsc_deadline() - own,
        10_000,
        "of the host's ticks"
    );
    drop(machine);
    end(&guest);
}
