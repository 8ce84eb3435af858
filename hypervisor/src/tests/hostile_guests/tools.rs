//! Lives of a toolstack that asks for anything at all: careless tools, of two guests and of what they made themselves.

use std::sync::Arc;

use crate::domain::create::DomainConfig;
use crate::domain::vcpu_state::VcpuState;
use crate::domain::{Domain, destroy, registry};
use crate::exit;
use crate::guest_mem::DomainMemory;
use crate::machine::memory;
use crate::main_loop::{CpuMain, Step};
use crate::pcpu::Pcpu;
use crate::runner::{Activity, Runner, inject};
use guest_abi::domctl::{XEN_DOMCTL_gethvmcontext, XEN_DOMCTL_sethvmcontext};
use guest_abi::xen::{
    __HYPERVISOR_domctl, __HYPERVISOR_event_channel_op, __HYPERVISOR_hvm_op,
    __HYPERVISOR_memory_op, __HYPERVISOR_sysctl,
};
use hv_core::addr::Gpa;
use hv_core::domid::DomId;
use hv_core::mem::GuestMem;
use hv_core::options::Scheduler;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{GuestRegs, SystemRegs, VcpuHw, VmExit};
use hv_hw::{hosted::Clock, time};

use super::guests::{endless, new_guest};
use super::oracle;
use super::random::Random;
use crate::pcpu::hand_off;
use crate::tests::common::{domain, give_ram, pcpu};

/// Calls in a life.
const CALLS: u64 = 200;
/// Where the caller's next instruction is.
const RIP: u64 = 0x9000;
/// Where its arguments lie, and a guest's state.
const ARGUMENT: u64 = 0x1000;
const STATE: u64 = 0x4000;
/// domctls and sysctls that there are, the commoner ones oftener.
const COMMANDS: [u32; 37] = [
    1, 3, 4, 5, 9, 11, 12, 12, 13, 14, 15, 16, 17, 19, 20, 21, 24, 25, 27, 28, 33, 34, 34, 34, 55,
    59, 60, 66, 68, 69, 82, 83, 83, 85, 86, 10, 61,
];
/// Frames that dom0's own tables may have taken.
const TABLES: u64 = 64;

struct Machine {
    random: Random,
    main: CpuMain<FakeVcpu>,
    host: Arc<Domain>,
    guests: [Arc<Domain>; 2],
    ids: [u64; 2],
}

/// A life from `seed`: calls, and those of them that succeeded.
pub(crate) fn life(seed: u64) -> [u64; 2] {
    let host = domain(0, DomainConfig::dom0(1));
    drop(give_ram(&host, 32));
    let before = memory::free_frames();
    let mut main = CpuMain::new(pcpu(), Scheduler::RoundRobin, endless);
    let state = VcpuState::starting(GuestRegs::default(), SystemRegs::default());
    host.vcpus[0].set_state(state);
    hand_off::spawn(&host, 0).unwrap();
    let _ = host.unpause();
    let guests = [new_guest(), new_guest()];
    for _ in 0..4 {
        let _ = main.step();
    }
    let mut machine = Machine {
        random: Random::new(seed),
        ids: guests.each_ref().map(|guest| u64::from(guest.id.get())),
        main,
        host,
        guests,
    };
    let old = known_ids();
    let mut succeeded = 0;
    for call in 0..CALLS {
        succeeded += u64::from(machine.call());
        machine.meanwhile(&format!("seed {seed}, call {call}"));
    }
    let Machine {
        mut main, guests, ..
    } = machine;
    let made = known_ids().into_iter().filter(|id| !old.contains(id));
    let made: Vec<_> = made.filter_map(registry::find).collect();
    let ids = guests.each_ref().map(|guest| guest.id);
    for domain in made.into_iter().chain(guests) {
        oracle::end(domain, &mut main, &[]);
    }
    drop(main);
    destroy::reap();
    let now = memory::free_frames();
    assert!(
        now + TABLES >= before,
        "seed {seed}: of {before} frames {now} are left"
    );
    for id in ids {
        assert_eq!(memory::charged(id), 0, "seed {seed}: {id} keeps frames");
    }
    oracle::check_log(seed);
    [CALLS, succeeded]
}

fn known_ids() -> Vec<DomId> {
    let all = (0..0x7FF0).filter_map(DomId::new);
    all.filter(|id| registry::find(*id).is_some()).collect()
}

impl Machine {
    /// Lets dom0 make a call, until it needs not be executed again; true where it succeeded.
    fn call(&mut self) -> bool {
        let number = self.random.of(&[
            __HYPERVISOR_domctl,
            __HYPERVISOR_domctl,
            __HYPERVISOR_domctl,
            __HYPERVISOR_domctl,
            __HYPERVISOR_domctl,
            __HYPERVISOR_sysctl,
            __HYPERVISOR_memory_op,
            __HYPERVISOR_hvm_op,
            __HYPERVISOR_event_channel_op,
        ]);
        let command = match number {
            __HYPERVISOR_domctl => self.random.of(&COMMANDS),
            _ => self.random.below(32) as u32,
        };
        let argument = self.argument(number, command);
        let state = self.state();
        if self.random.one_in(6) {
            let _ = self.guests[0].vcpus[0].take_state();
        }
        self.run_dom0();
        let registers = std::array::from_fn(|_| self.random.value(&self.ids));
        let size = self.random.below(0x4000);
        let is_state = number == __HYPERVISOR_domctl
            && (command == XEN_DOMCTL_gethvmcontext || command == XEN_DOMCTL_sethvmcontext)
            && self.random.one_in(2);
        let (dom0, _) = self.dom0();
        dom0.hw.registers.gpr = registers;
        dom0.hw.system.rip = RIP;
        write(dom0, ARGUMENT, &argument);
        if let Some((at, bytes)) = state {
            write(dom0, at, &bytes);
        }
        if is_state {
            let size = if command == XEN_DOMCTL_gethvmcontext {
                0x8000
            } else {
                size
            };
            write(dom0, ARGUMENT + 0x10, &size.to_le_bytes());
            write(dom0, ARGUMENT + 0x18, &STATE.to_le_bytes());
        }
        let regs = dom0.hw.regs();
        regs.set_rax(number);
        if number == __HYPERVISOR_domctl || number == __HYPERVISOR_sysctl {
            regs.set_rdi(ARGUMENT);
        } else {
            regs.set_rdi(u64::from(command));
            regs.set_rsi(ARGUMENT);
        }
        self.finish()
    }

    /// The bytes of an argument, plausible in part.
    fn argument(&mut self, number: u64, command: u32) -> Vec<u8> {
        let Self { random, ids, .. } = self;
        let of = if random.one_in(12) {
            random.domid(ids)
        } else {
            random.of(ids)
        };
        let mut bytes = Vec::new();
        if number == __HYPERVISOR_domctl || number == __HYPERVISOR_sysctl {
            const VERSION: u32 = guest_abi::domctl::XEN_DOMCTL_INTERFACE_VERSION;
            bytes.extend_from_slice(&command.to_le_bytes());
            bytes.extend_from_slice(&VERSION.to_le_bytes());
        }
        if number != __HYPERVISOR_sysctl {
            bytes.extend_from_slice(&of.to_le_bytes());
        }
        while bytes.len() < 144 {
            match random.below(4) {
                0 => bytes.extend_from_slice(&(STATE + random.below(64) * 8).to_le_bytes()),
                1 => bytes.extend_from_slice(&[0; 8]),
                2 => bytes.extend_from_slice(&random.value(ids).to_le_bytes()),
                _ => {
                    bytes.extend_from_slice(&random.word(ids).to_le_bytes());
                    bytes.extend_from_slice(&random.word(ids).to_le_bytes());
                }
            }
        }
        bytes
    }

    /// What changes where a guest's state was left: all of it, a word, nothing.
    fn state(&mut self) -> Option<(u64, Vec<u8>)> {
        let Self { random, ids, .. } = self;
        match random.below(4) {
            0 => Some((STATE, random.bytes(ids, 2048))),
            1 => {
                let at = STATE + random.below(8192);
                Some((at, random.value(ids).to_le_bytes().to_vec()))
            }
            _ => None,
        }
    }

    fn finish(&mut self) -> bool {
        for _ in 0..40 {
            let (dom0, pcpu) = self.dom0();
            let _ = exit::handle(dom0, pcpu, VmExit::Hypercall);
            let _ = inject::prepare(dom0);
            dom0.activity = Activity::Ready;
            if dom0.hw.rip() != RIP {
                return dom0.hw.regs().rax() < 1 << 40;
            }
            self.run_dom0();
        }
        false
    }

    fn dom0(&mut self) -> (&mut Runner<FakeVcpu>, &mut Pcpu) {
        self.main.part(&self.host, 0).unwrap()
    }

    /// Lets everybody run until dom0 does.
    fn run_dom0(&mut self) {
        let host = self.host.id;
        let is_dom0 = |step| matches!(step, Step::Ran(id) if id.domid == host);
        let ran = (0..40).any(|_| is_dom0(self.main.step()));
        assert!(ran, "dom0 runs");
    }

    fn meanwhile(&mut self, what: &str) {
        if self.random.one_in(4) {
            Clock::advance(time::ns_to_ticks(self.random.below(10_000_000)));
            self.dom0().1.expire_timers();
            let _ = self.main.step();
        }
        if self.random.one_in(16) {
            let [first, second] = &self.guests;
            oracle::check_mappings(&[first, second], what);
        }
    }
}

fn write(dom0: &Runner<FakeVcpu>, gpa: u64, bytes: &[u8]) {
    let mut memory = DomainMemory::lock(&dom0.domain, &dom0.tlb);
    let _ = memory.write(Gpa::new(gpa), bytes);
}
