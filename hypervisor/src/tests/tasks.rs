//! Hardware task switches of a guest: from its registers and memory to the new task's, and what of it is the old one's.

use crate::exit;
use crate::guest_mem::DomainMemory;
use crate::pcpu::Pcpu;
use crate::runner::Runner;
use crate::tests::common::{code, domain, give_ram, guest_config, vcpu_of};
use hv_core::addr::Gpa;
use hv_core::mem::GuestMem;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{
    DescriptorTable, Event, SEGMENT_CS, SEGMENT_SS, SEGMENT_TR, Segment, SoftwareEvent, TaskSource,
    TaskSwitch, VcpuHw, VmExit,
};

const GDT: u64 = 0x1000;
const OLD: u16 = 0x18;
const NEW: u16 = 0x20;
const OLD_TSS: u64 = 0x2000;
const NEW_TSS: u64 = 0x3000;
/// Where the old task is, and what the new one begins with.
const RIP: u64 = 0x1234;
const NEW_RIP: u64 = 0x4321;
const NEW_ESP: u64 = 0x7000;

/// 32-bit code without paging, in a task, with another to go to.
fn guest() -> (Runner<FakeVcpu>, Pcpu) {
    let domain = domain(9, guest_config(1));
    drop(give_ram(&domain, 8));
    let (mut runner, pcpu) = vcpu_of(domain);
    let gdt: [u64; 5] = [
        0,
        0x00CF_9A00_0000_FFFF,
        0x00CF_9200_0000_FFFF,
        0x8B00_2000_0067,
        0x8900_3000_0067,
    ];
    write(&runner, GDT, &gdt.map(u64::to_le_bytes).concat());
    for (at, word) in [
        (0x20, NEW_RIP),
        (0x24, 2),
        (0x38, NEW_ESP),
        (0x48, 0x10),
        (0x4C, 8),
        (0x50, 0x10),
        (0x54, 0x10),
    ] {
        let word = u32::try_from(word).unwrap();
        write(&runner, NEW_TSS + at, &word.to_le_bytes());
    }
    let system = &mut runner.hw.system;
    system.cr0 = 0x11;
    system.efer = 0;
    system.rip = RIP;
    let segment = |selector, base, limit, access| Segment {
        selector,
        base,
        limit,
        access,
    };
    system.segments[SEGMENT_CS] = segment(8, 0, u32::MAX, 0xC09B);
    system.segments[SEGMENT_SS] = segment(0x10, 0, u32::MAX, 0xC093);
    system.segments[SEGMENT_TR] = segment(OLD, OLD_TSS, 103, 0x8B);
    system.gdtr = DescriptorTable {
        base: GDT,
        limit: 0x27,
    };
    (runner, pcpu)
}

fn write(runner: &Runner<FakeVcpu>, gpa: u64, bytes: &[u8]) {
    let mut memory = DomainMemory::lock(&runner.domain, &runner.tlb);
    memory.write(Gpa::new(gpa), bytes).unwrap();
}

fn word(runner: &Runner<FakeVcpu>, gpa: u64) -> u64 {
    let mut word = [0; 4];
    let memory = DomainMemory::lock(&runner.domain, &runner.tlb);
    memory.read(Gpa::new(gpa), &mut word).unwrap();
    u64::from(u32::from_le_bytes(word))
}

fn switch(runner: &mut Runner<FakeVcpu>, pcpu: &mut Pcpu, selector: u16, source: TaskSource) {
    let exit = VmExit::TaskSwitch(TaskSwitch {
        selector,
        source,
        length: Some(7),
    });
    let _ = exit::handle(runner, pcpu, exit);
}

#[test]
fn double_fault_goes_to_its_task_with_its_error_code() {
    let (mut runner, mut pcpu) = guest();
    runner.hw.interrupted = Some(Event::DOUBLE_FAULT);
    switch(&mut runner, &mut pcpu, NEW, TaskSource::Gate(None));
    assert_eq!((runner.raised, runner.interrupted), (None, None));
    assert_eq!(runner.hw.rip(), NEW_RIP);
    assert_eq!(runner.hw.system.rsp, NEW_ESP - 4);
    assert_eq!(word(&runner, NEW_ESP - 4), 0);
    assert_eq!(runner.hw.system.segments[SEGMENT_TR].selector, NEW);
    // a fault: the old task is where it was
    assert_eq!(word(&runner, OLD_TSS + 0x20), RIP);
}

#[test]
fn old_task_goes_on_behind_the_instruction_that_left_it() {
    let software = Event::Software {
        vector: 0x80,
        kind: SoftwareEvent::Interrupt,
        length: 2,
    };
    for (source, event, length) in [
        (TaskSource::Call, None, 7),
        (TaskSource::Gate(None), Some(software), 2),
        (TaskSource::Gate(None), Some(Event::Interrupt(0x40)), 0),
        (TaskSource::Gate(None), Some(Event::Nmi), 0),
    ] {
        let (mut runner, mut pcpu) = guest();
        runner.hw.interrupted = event;
        switch(&mut runner, &mut pcpu, NEW, source);
        let left_at = word(&runner, OLD_TSS + 0x20);
        assert_eq!(left_at, RIP + length, "{source:?} {event:?}");
        switch(&mut runner, &mut pcpu, OLD, TaskSource::Iret);
        assert_eq!(runner.hw.rip(), left_at, "{source:?} {event:?}");
        assert_eq!(runner.raised, None);
    }
}

/// A CPU that does not say how long the instruction was, nor of INT n that is under way.
#[test]
fn old_task_goes_on_behind_the_instruction_that_is_found() {
    let software = Event::Software {
        vector: 0x80,
        kind: SoftwareEvent::Interrupt,
        length: 0,
    };
    for (source, event) in [
        (TaskSource::Call, None),
        (TaskSource::Jump, None),
        (TaskSource::Gate(None), None),
        (TaskSource::Gate(None), Some(software)),
    ] {
        let (mut runner, mut pcpu) = guest();
        runner.hw.interrupted = event;
        let exit = VmExit::TaskSwitch(TaskSwitch {
            selector: NEW,
            source,
            length: None,
        });
        write(&runner, RIP, &code::of(&exit, false).unwrap());
        let _ = exit::handle(&mut runner, &mut pcpu, exit);
        assert_eq!((runner.raised, runner.hw.rip()), (None, NEW_RIP));
        assert_eq!(word(&runner, OLD_TSS + 0x20), RIP + 2, "{source:?}");
    }
}

#[test]
fn task_that_is_none_is_a_fault_where_the_guest_was() {
    let (mut runner, mut pcpu) = guest();
    switch(&mut runner, &mut pcpu, 8, TaskSource::Jump);
    let expected = Event::Exception {
        vector: 13,
        error: Some(8),
    };
    assert_eq!(runner.raised, Some(expected));
    assert_eq!(runner.hw.rip(), RIP);
    assert_eq!(runner.domain.shutdown_reason(), None);
}

#[test]
fn event_whose_task_is_none_is_still_being_delivered() {
    let (mut runner, mut pcpu) = guest();
    runner.hw.interrupted = Some(Event::Interrupt(0x40));
    switch(&mut runner, &mut pcpu, OLD, TaskSource::Gate(None));
    assert_eq!(runner.interrupted, Some(Event::Interrupt(0x40)));
    assert!(runner.raised.is_some());
}

#[test]
fn tss_on_a_page_that_is_not_there_is_a_page_fault_with_its_address() {
    let (mut runner, mut pcpu) = guest();
    // tables of 32-bit paging in frames 4 and 5: all but the new task's page
    write(&runner, 0x4000, &0x5003_u32.to_le_bytes());
    for frame in (0..8_u32).filter(|frame| *frame != 3) {
        let entry = (frame << 12) | 3;
        write(&runner, 0x5000 + u64::from(frame) * 4, &entry.to_le_bytes());
    }
    runner.hw.system.cr0 = 0x8000_0011;
    runner.hw.system.cr3 = 0x4000;
    switch(&mut runner, &mut pcpu, NEW, TaskSource::Jump);
    let expected = Event::Exception {
        vector: 14,
        error: Some(0),
    };
    assert_eq!(runner.raised, Some(expected));
    assert_eq!(runner.hw.system.cr2, NEW_TSS);
    assert_eq!(runner.hw.rip(), RIP);
}
