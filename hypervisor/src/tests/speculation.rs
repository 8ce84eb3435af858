//! What one domain has the CPU learn of branches is forgotten before another's vCPU runs, and only then.

use std::sync::Arc;

use crate::domain::destroy::{self, Progress};
use crate::domain::vcpu_state::VcpuState;
use crate::domain::{Domain, registry};
use crate::main_loop::{CpuMain, Step};
use crate::pcpu::hand_off;
use crate::tests::common::{domain, fake, guest_config, pcpu, prepare};
use hv_core::domid::DomId;
use hv_core::options::Scheduler;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{GuestRegs, SystemRegs, VmExit};

/// A guest whose vCPUs do nothing but let others run.
fn yielding_guest(main: &mut CpuMain<FakeVcpu>, wanted: Option<DomId>, vcpus: u16) -> Arc<Domain> {
    let number = registry::reserve(wanted).unwrap();
    let guest = domain(number.id().get(), guest_config(vcpus));
    registry::add(guest.clone());
    for (index, vcpu) in guest.vcpus.iter().enumerate() {
        vcpu.set_state(VcpuState::starting(
            GuestRegs::default(),
            SystemRegs::default(),
        ));
        hand_off::spawn(&guest, index).unwrap();
    }
    let _ = main.step();
    for index in 0..guest.vcpus.len() {
        let (runner, _) = main.part(&guest, index).unwrap();
        runner.hw.endless = Some(|_| VmExit::PauseLoop);
    }
    let _ = guest.unpause();
    guest
}

/// How often what was learnt was forgotten, and how often a vCPU ran.
fn barriers_in(main: &mut CpuMain<FakeVcpu>, guests: &[Arc<Domain>], steps: usize) -> u64 {
    let count = |main: &mut CpuMain<FakeVcpu>| -> u64 {
        let of = |guest: &Arc<Domain>, main: &mut CpuMain<FakeVcpu>| -> u64 {
            (0..guest.vcpus.len())
                .map(|index| main.part(guest, index).unwrap().0.hw.barriers)
                .sum()
        };
        guests.iter().map(|guest| of(guest, main)).sum()
    };
    let before = count(main);
    for _ in 0..steps {
        assert!(matches!(main.step(), Step::Ran(_)));
    }
    count(main) - before
}

fn end(main: &mut CpuMain<FakeVcpu>, guest: &Arc<Domain>) {
    let mut hw = FakeVcpu::default();
    for _ in 0..1000 {
        match destroy::step(guest, &mut hw) {
            Progress::Done => return,
            Progress::More => {}
            Progress::WaitForCpus => {
                let _ = main.step();
            }
        }
    }
    panic!("the guest does not end");
}

#[test]
fn vcpus_of_one_domain_share_what_they_have_learnt() {
    prepare();
    let mut main = CpuMain::new(pcpu(), Scheduler::RoundRobin, fake);
    let guest = yielding_guest(&mut main, None, 2);
    let guests = [guest];
    assert_eq!(barriers_in(&mut main, &guests, 20), 1, "the first of all");
    assert_eq!(barriers_in(&mut main, &guests, 20), 0);
    end(&mut main, &guests[0]);
}

#[test]
fn what_was_learnt_is_forgotten_between_domains() {
    prepare();
    let mut main = CpuMain::new(pcpu(), Scheduler::RoundRobin, fake);
    let guests = [1, 1].map(|vcpus| yielding_guest(&mut main, None, vcpus));
    // whose turn it is
    let _ = barriers_in(&mut main, &guests, 1);
    assert_eq!(barriers_in(&mut main, &guests, 20), 20);
    for guest in &guests {
        end(&mut main, guest);
    }
}

#[test]
fn domain_that_gets_the_number_of_a_dead_one_does_not_inherit() {
    prepare();
    let mut main = CpuMain::new(pcpu(), Scheduler::RoundRobin, fake);
    let first = yielding_guest(&mut main, None, 1);
    let id = first.id;
    assert_eq!(barriers_in(&mut main, std::slice::from_ref(&first), 3), 1);
    end(&mut main, &first);
    drop(first);
    destroy::reap();
    let second = yielding_guest(&mut main, Some(id), 1);
    assert_eq!(second.id, id);
    assert_eq!(barriers_in(&mut main, std::slice::from_ref(&second), 3), 1);
    end(&mut main, &second);
}
