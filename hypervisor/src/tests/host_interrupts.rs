//! The host gets its interrupts whatever a guest does: each exit reason, wherever it finds the guest, under a host
//! interrupt that becomes an exit only where the guest may be interrupted. The fake vCPU ends the test where one waits
//! for too long.

use std::sync::Arc;

use crate::domain::Domain;
use crate::domain::destroy::{self, Progress};
use crate::domain::vcpu_state::VcpuState;
use crate::guest_mem::DomainMemory;
use crate::main_loop::{CpuMain, Step, run_loop};
use crate::pcpu::{Pcpu, hand_off};
use crate::runner::Runner;
use crate::tests::common::{code, fake, give_ram, known_guest, one_vcpu, pcpu, prepare};
use guest_abi::xen::{__HYPERVISOR_console_io, __HYPERVISOR_multicall, CONSOLEIO_write};
use hv_core::addr::Gpa;
use hv_core::mem::GuestMem;
use hv_core::options::Scheduler;
use hv_hw::irq::vectors;
use hv_hw::virt::fake::{Course, FakeVcpu};
use hv_hw::virt::{
    ControlRegister, Event, GuestRegs, IoExit, SEGMENT_CS, SoftwareEvent, Stage2Access,
    Stage2Fault, SystemRegs, TaskSource, TaskSwitch, VmExit,
};

/// Exits in a row that a scenario has, more than any host interrupt may wait for.
const EXITS: usize = 200;
/// The entry during which the host interrupt comes: the guest is in the middle of what it does.
const AT: u64 = 20;
/// Entries that an interrupt waits for where each entry to come is known to have no boundary: that one, and the next.
const SOON: u64 = 2;
const FRAMES: u64 = 8;
/// What all memory leads to where that is one frame.
const ONLY_FRAME: u64 = 5;

const ALIGNMENT: Event = Event::Exception {
    vector: 17,
    error: Some(0),
};
const DEBUG: Event = Event::Exception {
    vector: 1,
    error: None,
};

/// The reasons, each with what it can look like: a new one is added here, or this does not compile.
macro_rules! reasons {
    ($($pattern:pat => [$($sample:expr),* $(,)?],)*) => {
        const fn is_listed(exit: &VmExit) -> bool {
            match exit {
                $($pattern => true,)*
            }
        }
        fn reasons() -> Vec<VmExit> {
            let all = vec![$($($sample,)*)*];
            assert!(all.iter().all(is_listed));
            all
        }
    };
}

reasons! {
    VmExit::ExternalInterrupt(_) => [VmExit::ExternalInterrupt(vectors::POSTED_INTERRUPT)],
    VmExit::Nmi => [VmExit::Nmi],
    VmExit::ReadTsc { .. } => [
        VmExit::ReadTsc { with_aux: false },
        VmExit::ReadTsc { with_aux: true },
    ],
    VmExit::Exception { .. } => [
        VmExit::Exception { vector: 1, error: None, qualification: 1 },
        VmExit::Exception { vector: 17, error: Some(0), qualification: 0 },
    ],
    VmExit::InterruptWindow => [VmExit::InterruptWindow],
    VmExit::NmiWindow => [VmExit::NmiWindow],
    VmExit::Cpuid => [VmExit::Cpuid],
    VmExit::Hlt => [VmExit::Hlt],
    VmExit::Hypercall => [VmExit::Hypercall],
    VmExit::Rdmsr => [VmExit::Rdmsr],
    VmExit::Wrmsr => [VmExit::Wrmsr],
    VmExit::Xsetbv => [VmExit::Xsetbv],
    VmExit::CacheFlush => [VmExit::CacheFlush],
    VmExit::Io(_) => [
        VmExit::Io(IoExit { port: 0xE9, size: 1, is_in: false, is_string: false }),
        VmExit::Io(IoExit { port: 0x60, size: 4, is_in: true, is_string: false }),
        VmExit::Io(PRINTS),
    ],
    VmExit::ControlWrite { .. } => [
        VmExit::ControlWrite { register: ControlRegister::Cr0, value: Some(0x11) },
        VmExit::ControlWrite { register: ControlRegister::Cr4, value: Some(0x20) },
        VmExit::ControlWrite { register: ControlRegister::Cr8, value: None },
    ],
    VmExit::Cr8Read { .. } => [VmExit::Cr8Read { destination: Some(0) }, VmExit::Cr8Read { destination: None }],
    VmExit::Stage2Fault(_) => [
        VmExit::Stage2Fault(fault(Stage2Access::READ)),
        VmExit::Stage2Fault(fault(Stage2Access::WRITE)),
        VmExit::Stage2Fault(fault(Stage2Access::FETCH.union(Stage2Access::PRESENT))),
        VmExit::Stage2Fault(fault(Stage2Access::READ.union(Stage2Access::WALK))),
    ],
    VmExit::Eoi(_) => [VmExit::Eoi(0x40)],
    VmExit::ApicWrite(_) => [VmExit::ApicWrite(0xB0), VmExit::ApicWrite(0x300)],
    VmExit::TprBelowThreshold => [VmExit::TprBelowThreshold],
    VmExit::PauseLoop => [VmExit::PauseLoop],
    VmExit::BusLock => [VmExit::BusLock],
    VmExit::InstructionTimeout => [VmExit::InstructionTimeout],
    VmExit::Nothing => [VmExit::Nothing],
    // the end of the machine
    VmExit::HostReset => [],
    VmExit::TaskSwitch(_) => [
        VmExit::TaskSwitch(TaskSwitch { selector: 0x30, source: TaskSource::Gate(None), length: Some(2) }),
        VmExit::TaskSwitch(TaskSwitch { selector: 0x30, source: TaskSource::Jump, length: None }),
    ],
    VmExit::Undefined(_) => [VmExit::Undefined(36)],
    VmExit::TripleFault => [VmExit::TripleFault],
    VmExit::Broken { .. } => [VmExit::Broken { reason: 33, qualification: 0 }],
}

/// REP OUTSB to the port that is printed.
const PRINTS: IoExit = IoExit {
    port: 0xE9,
    size: 1,
    is_in: false,
    is_string: true,
};

/// An access to where a guest has nothing.
const fn fault(access: Stage2Access) -> Stage2Fault {
    Stage2Fault {
        gpa: Gpa::new(1 << 32),
        linear: None,
        access,
    }
}

/// Where a guest can be when an exit finds it.
fn courses() -> Vec<Course> {
    let software = |kind| Event::Software {
        vector: 3,
        kind,
        length: 1,
    };
    let mut all = vec![Course::Boundaries, Course::InShadow, Course::Trap];
    let events = [
        Event::Interrupt(0x40),
        Event::Nmi,
        ALIGNMENT,
        DEBUG,
        Event::PROTECTION,
        Event::DOUBLE_FAULT,
        software(SoftwareEvent::Interrupt),
        software(SoftwareEvent::Exception),
        software(SoftwareEvent::Privileged),
    ];
    all.extend(events.map(Course::InDelivery));
    all
}

/// A guest of one vCPU, which is to have `exit` again and again.
struct Machine {
    guest: Arc<Domain>,
    main: CpuMain<FakeVcpu>,
}

impl Machine {
    fn new(exit: VmExit, course: Course) -> Self {
        let guest = known_guest();
        drop(give_ram(&guest, FRAMES));
        let mut main = CpuMain::new(pcpu(), Scheduler::Credit2, fake);
        guest.vcpus[0].set_state(VcpuState::starting(
            GuestRegs::default(),
            SystemRegs::default(),
        ));
        hand_off::spawn(&guest, 0).unwrap();
        assert_eq!(main.step(), Step::Idle);
        let mut machine = Self { guest, main };
        let hw = &mut machine.part().0.hw;
        hw.exits = vec![exit; EXITS].into();
        hw.course = course;
        hw.interrupt_at = Some((AT, vectors::KICK));
        machine
    }

    /// Has the instruction behind `exit` in one of the guest's frames, again and again.
    fn fill_with_code(&mut self, frame: u64, exit: &VmExit) {
        let code = code::of(exit, true).unwrap_or_default();
        let (runner, _) = self.part();
        let mut memory = DomainMemory::lock(&runner.domain, &runner.tlb);
        memory
            .write(Gpa::new(frame << 12), &code.repeat(EXITS))
            .unwrap();
    }

    fn part(&mut self) -> (&mut Runner<FakeVcpu>, &mut Pcpu) {
        self.main.part(&self.guest, 0).unwrap()
    }

    /// Runs the guest to its end, or until it gives the CPU up. The fake vCPU looks after the interrupt.
    fn run(mut self) -> u64 {
        let _ = self.guest.unpause();
        while self.main.step() != Step::Idle {}
        let entries = self.part().0.hw.entries;
        let mut hw = FakeVcpu::default();
        for _ in 0..1000 {
            match destroy::step(&self.guest, &mut hw) {
                Progress::Done => return entries,
                Progress::More => {}
                Progress::WaitForCpus => {
                    let _ = self.main.step();
                }
            }
        }
        panic!("the guest does not end");
    }

    /// 64-bit code, all of whose memory is one frame, of zeroes.
    fn alias_all_memory(&mut self) {
        const TABLES: [u64; 4] = [1, 2, 3, 4];
        let (runner, _) = self.part();
        for table in TABLES {
            let entry = ((table + 1) << 12) | 7;
            let mut memory = DomainMemory::lock(&runner.domain, &runner.tlb);
            let page: Vec<u8> = (0..512).flat_map(|_| u64::to_le_bytes(entry)).collect();
            memory.write(Gpa::new(table << 12), &page).unwrap();
        }
        let system = &mut runner.hw.system;
        system.cr0 = 0x8000_0033;
        system.cr3 = TABLES[0] << 12;
        system.cr4 = 1 << 5;
        system.efer = 0xD00;
        system.segments[SEGMENT_CS].access = 0xA09B;
    }
}

#[test]
fn host_gets_its_interrupt_whatever_exit_comes_and_wherever_it_finds_the_guest() {
    prepare();
    for exit in reasons() {
        for course in courses() {
            let _ = Machine::new(exit, course).run();
            // and on a CPU that does not say how long its instruction is, which is there or is not
            for has_code in [true, false] {
                let mut machine = Machine::new(exit, course);
                machine.part().0.hw.instruction_length = None;
                if has_code {
                    machine.fill_with_code(0, &exit);
                }
                let _ = machine.run();
            }
        }
    }
}

/// A guest that raises #AC once, with a stack for its handler that raises another.
#[test]
fn alignment_check_in_its_own_delivery_lets_the_host_in() {
    prepare();
    let exit = VmExit::Exception {
        vector: 17,
        error: Some(0),
        qualification: 0,
    };
    let mut machine = Machine::new(exit, Course::InDelivery(ALIGNMENT));
    machine.part().0.hw.patience = SOON;
    assert!(machine.run() > EXITS as u64);
}

/// A data breakpoint on the page that #DB's own frame goes to: the next trap is pending before the handler's first
/// instruction.
#[test]
fn debug_trap_of_its_own_delivery_lets_the_host_in() {
    prepare();
    let exit = VmExit::Exception {
        vector: 1,
        error: None,
        qualification: 1,
    };
    assert!(Machine::new(exit, Course::Trap).run() > EXITS as u64);
}

/// An IDT at an address where nothing is.
#[test]
fn violations_in_deliveries_let_the_host_in() {
    prepare();
    let exit = VmExit::Stage2Fault(fault(Stage2Access::READ));
    let mut machine = Machine::new(exit, Course::InDelivery(Event::Interrupt(0x40)));
    machine.part().0.hw.patience = SOON;
    let _ = machine.run();
}

/// MOV SS, then REP OUTSB of all there is.
#[test]
fn string_output_in_a_shadow_lets_the_host_in() {
    prepare();
    let mut machine = Machine::new(VmExit::Io(PRINTS), Course::InShadow);
    machine.alias_all_memory();
    machine.fill_with_code(ONLY_FRAME, &VmExit::Io(PRINTS));
    let hw = &mut machine.part().0.hw;
    hw.registers.set_rcx(u64::MAX);
    hw.patience = SOON;
    assert!(machine.run() > EXITS as u64);
}

/// MOV SS, then a hypercall that is executed again and again.
#[test]
fn hypercalls_without_end_in_a_shadow_let_the_host_in() {
    prepare();
    let calls = [
        (__HYPERVISOR_multicall, 0, u64::MAX / 64, 0),
        (
            __HYPERVISOR_console_io,
            u64::from(CONSOLEIO_write),
            u64::from(u32::MAX),
            0,
        ),
    ];
    for (number, first, second, third) in calls {
        let mut machine = Machine::new(VmExit::Hypercall, Course::InShadow);
        machine.alias_all_memory();
        let hw = &mut machine.part().0.hw;
        hw.registers.set_rax(number);
        hw.registers.set_rdi(first);
        hw.registers.set_rsi(second);
        hw.registers.set_rdx(third);
        hw.patience = SOON;
        assert!(machine.run() > EXITS as u64, "hypercall {number}");
    }
}

/// The same from 32-bit code, whose arguments are elsewhere.
#[test]
fn narrow_hypercalls_without_end_in_a_shadow_let_the_host_in() {
    const CODE_32_BIT: u32 = 0xC09B;
    prepare();
    let mut machine = Machine::new(VmExit::Hypercall, Course::InShadow);
    machine.alias_all_memory();
    let hw = &mut machine.part().0.hw;
    hw.system.segments[SEGMENT_CS].access = CODE_32_BIT;
    hw.registers.set_rax(__HYPERVISOR_multicall);
    hw.registers.set_rbx(0);
    hw.registers.set_rcx(u64::from(u32::MAX / 64));
    hw.patience = SOON;
    assert!(machine.run() > EXITS as u64);
}

/// Who leaves the run loop and comes back must not start the count over.
#[test]
fn guest_that_leaves_the_run_loop_at_each_exit_lets_the_host_in() {
    prepare();
    let mut machine = Machine::new(VmExit::Cpuid, Course::Trap);
    let hw = &mut machine.part().0.hw;
    hw.exits.clear();
    hw.endless = Some(|entry| {
        crate::machine::cpus::end_slice(0);
        if entry <= EXITS as u64 {
            VmExit::Cpuid
        } else {
            VmExit::TripleFault
        }
    });
    assert!(machine.run() > EXITS as u64);
}

/// dom0's first touch of a device's memory is tried again, which leaves a shadow in place.
#[test]
fn access_that_is_tried_again_in_a_shadow_lets_the_host_in() {
    prepare();
    let (mut runner, mut pcpu) = one_vcpu();
    let hw = &mut runner.hw;
    for gigabyte in 4..4 + EXITS as u64 {
        hw.exits.push_back(VmExit::Stage2Fault(Stage2Fault {
            gpa: Gpa::new(gigabyte << 30),
            ..fault(Stage2Access::READ)
        }));
    }
    hw.course = Course::InShadow;
    hw.interrupt_at = Some((AT, vectors::KICK));
    hw.patience = SOON;
    assert_eq!(
        run_loop::run(&mut runner, &mut pcpu),
        run_loop::Descheduled::Paused
    );
    assert!(runner.hw.entries > EXITS as u64);
}
