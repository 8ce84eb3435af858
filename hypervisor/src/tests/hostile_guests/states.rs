//! Saved states of a guest with a few words of them changed: each is refused, or the guest runs, or ends, with it.

use crate::domain::space;
use crate::exit;
use crate::guest_mem::DomainMemory;
use crate::main_loop::CpuMain;
use crate::pcpu::Pcpu;
use crate::runner::{Runner, inject};
use guest_abi::domctl::{
    XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_gethvmcontext, XEN_DOMCTL_sethvmcontext, XenDomctl,
    XenDomctlHvmcontext,
};
use guest_abi::xen::__HYPERVISOR_domctl;
use hv_core::addr::{Gfn, Gpa, PageOrder};
use hv_core::mem::GuestMem;
use hv_core::options::Scheduler;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{VcpuHw, VmExit};
use hv_hw::{hosted::Clock, time};
use zerocopy::{FromZeros, IntoBytes};

use super::guests::endless;
use super::random::Random;
use super::{calls, oracle};
use crate::pcpu::hand_off;
use crate::tests::common::{give_ram, known_guest, one_vcpu, pcpu};

/// Guests in a life.
const GUESTS: u64 = 8;
const RIP: u64 = 0x9000;
const ARGUMENT: u64 = 0x1000;
const STATE: u64 = 0x4000;
const STATE_BYTES: u32 = 0x2000;
/// Registers that a state holds and that have consequences.
const MSRS: [u64; 11] = [
    0x10, 0x838, 0x839, 0x832, 0x6E0, 0x80B, 0x1B, 0x83E, 0x808, 0x80F, 0x80A,
];

/// A caller of the toolstack's hypercalls.
struct Toolstack {
    dom0: Runner<FakeVcpu>,
    pcpu: Pcpu,
}

/// A life from `seed`: states that were offered, and those of them that were taken.
pub(crate) fn life(seed: u64) -> [u64; 2] {
    let mut random = Random::new(seed);
    let (dom0, pcpu) = one_vcpu();
    drop(give_ram(&dom0.domain, 32));
    let mut toolstack = Toolstack { dom0, pcpu };
    let taken = (0..GUESTS).filter(|_| forge(&mut random, &mut toolstack));
    let taken = taken.count() as u64;
    oracle::check_log(seed);
    [GUESTS, taken]
}

/// Makes a guest, forges its state, and has it run where that was taken.
fn forge(random: &mut Random, toolstack: &mut Toolstack) -> bool {
    let mut main: CpuMain<FakeVcpu> = CpuMain::new(pcpu(), Scheduler::RoundRobin, endless);
    let guest = known_guest();
    let id = u64::from(guest.id.get());
    space::set_max_pages(&guest, 64);
    for page in 0..16 {
        space::populate(&guest, Gfn::new(page), PageOrder::SIZE_4K).unwrap();
    }
    hand_off::spawn(&guest, 0).unwrap();
    let _ = main.step();
    let (answer, size) = toolstack.call(&mut main, id, XEN_DOMCTL_gethvmcontext, STATE_BYTES);
    assert_eq!(answer, 0, "the state is had");
    let mut state = toolstack.state()[..size as usize].to_vec();
    for _ in 0..=random.below(6) {
        let value = random.value(&[1]).to_le_bytes();
        let at = (random.below(state.len() as u64) & !3) as usize;
        let width = random.of(&[1, 2, 4, 8]).min(state.len() - at);
        state[at..at + width].copy_from_slice(&value[..width]);
    }
    toolstack.put_state(&state);
    let (answer, _) = toolstack.call(&mut main, id, XEN_DOMCTL_sethvmcontext, size);
    if answer == 0 {
        let _ = toolstack.call(&mut main, id, XEN_DOMCTL_gethvmcontext, STATE_BYTES);
        let _ = guest.unpause();
        for _ in 0..4 {
            let _ = main.step();
            Clock::advance(time::ns_to_ticks(random.below(10_000_000)));
            if let Some((runner, pcpu)) = main.part(&guest, 0) {
                pcpu.expire_timers();
                use_state(random, id, (runner, pcpu));
            }
        }
        let _ = guest.pause();
        let _ = toolstack.call(&mut main, id, XEN_DOMCTL_gethvmcontext, STATE_BYTES);
    }
    oracle::end(guest, &mut main, &[]);
    answer == 0
}

fn use_state(random: &mut Random, id: u64, (runner, pcpu): (&mut Runner<FakeVcpu>, &mut Pcpu)) {
    for exit in [VmExit::Rdmsr, VmExit::Wrmsr, VmExit::Hypercall] {
        let regs = runner.hw.regs();
        if exit == VmExit::Hypercall {
            calls::any(random, &[id, id], regs);
        } else {
            regs.set_rcx(random.of(&MSRS));
            regs.set_edx_eax(random.value(&[1]));
        }
        let _ = exit::handle(runner, pcpu, exit);
        let _ = inject::prepare(runner);
    }
}

impl Toolstack {
    /// A domctl about the state of `id`: its result, and the size that it left.
    fn call(
        &mut self,
        main: &mut CpuMain<FakeVcpu>,
        id: u64,
        command: u32,
        size: u32,
    ) -> (u64, u32) {
        let mut domctl = XenDomctl::new_zeroed();
        domctl.cmd = command;
        domctl.interface_version = XEN_DOMCTL_INTERFACE_VERSION;
        domctl.domain = id as u16;
        let body = XenDomctlHvmcontext {
            size,
            buffer: STATE,
            ..XenDomctlHvmcontext::new_zeroed()
        };
        assert!(body.write_to_prefix(domctl.u.as_mut_bytes()).is_ok());
        let dom0 = &mut self.dom0;
        DomainMemory::lock(&dom0.domain, &dom0.tlb)
            .write(Gpa::new(ARGUMENT), domctl.as_bytes())
            .unwrap();
        dom0.hw.system.rip = RIP;
        dom0.hw.regs().set_rax(__HYPERVISOR_domctl);
        dom0.hw.regs().set_rdi(ARGUMENT);
        for _ in 0..10 {
            let _ = exit::handle(dom0, &mut self.pcpu, VmExit::Hypercall);
            if dom0.hw.rip() != RIP {
                break;
            }
            let _ = main.step();
        }
        DomainMemory::lock(&dom0.domain, &dom0.tlb)
            .read(Gpa::new(ARGUMENT), domctl.as_mut_bytes())
            .unwrap();
        (dom0.hw.regs().rax(), domctl.u[0] as u32)
    }

    fn state(&self) -> Vec<u8> {
        let mut bytes = vec![0; STATE_BYTES as usize];
        let memory = DomainMemory::lock(&self.dom0.domain, &self.dom0.tlb);
        for (at, page) in (STATE..).step_by(4096).zip(bytes.chunks_mut(4096)) {
            memory.read(Gpa::new(at), page).unwrap();
        }
        bytes
    }

    fn put_state(&self, bytes: &[u8]) {
        let mut memory = DomainMemory::lock(&self.dom0.domain, &self.dom0.tlb);
        for (at, page) in (STATE..).step_by(4096).zip(bytes.chunks(4096)) {
            memory.write(Gpa::new(at), page).unwrap();
        }
    }
}
