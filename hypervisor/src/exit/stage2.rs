//! An access that the second-stage tables do not allow: a device's memory on first touch, a register that is emulated,
//! or nothing.

use hv_core::addr::{Gfn, Gpa, Mfn, MfnRange, PageOrder};
use hv_core::p2m::{P2m, P2mError};
use hv_hw::direct_map::DirectTables;
use hv_hw::virt::{Stage2Access, Stage2Fault, VcpuHw};
use hv_hw::{domain_log, guest_log, sync::RankedGuard, sync::rank};

use crate::domain::pod::{self, Touched};
use crate::domain::{Domain, pci};
use crate::exit::mmio;
use crate::machine::host;
use crate::pcpu::Pcpu;
use crate::runner::crash::die;
use crate::runner::{Next, Runner, retry};

/// What a guest frame turned out to be.
enum Answer {
    /// It is there now: try again.
    Retry,
    /// The access has to be emulated.
    Emulate,
    /// There is no memory for the tables.
    OutOfMemory,
    /// What the guest has is all in use, and it touches more.
    OutOfPod,
}

pub(super) fn handle<H: VcpuHw>(
    runner: &mut Runner<H>,
    pcpu: &mut Pcpu,
    fault: Stage2Fault,
) -> Next {
    match answer(runner, fault) {
        Answer::Retry => retry(pcpu),
        Answer::Emulate => mmio::handle(runner, pcpu, fault),
        Answer::OutOfMemory => {
            domain_log!(
                runner.domain.log,
                Error,
                "{}: no memory left for its second-stage tables",
                runner.domain.id
            );
            die(runner)
        }
        Answer::OutOfPod => {
            pod::end(&runner.domain);
            Next::Resume
        }
    }
}

fn answer<H: VcpuHw>(runner: &mut Runner<H>, fault: Stage2Fault) -> Answer {
    let gfn = Gfn::containing(fault.gpa);
    let domain = runner.domain.clone();
    let mut p2m = domain.p2m.lock();
    if fault.access.contains(Stage2Access::FETCH) && fault.access.contains(Stage2Access::PRESENT) {
        return allow_fetch(runner, &mut p2m, gfn);
    }
    if p2m.lookup(&DirectTables, gfn).is_some() {
        // what was not there for the CPU may be there by now: another vCPU was first
        return if fault.access.contains(Stage2Access::PRESENT) {
            Answer::Emulate
        } else {
            Answer::Retry
        };
    }
    if p2m.pod.is_active() {
        match pod::touch(&domain, &mut p2m, gfn) {
            Touched::Done | Touched::NotYet => return Answer::Retry,
            Touched::OutOfMemory => return Answer::OutOfPod,
            Touched::OutOfTables => return Answer::OutOfMemory,
            Touched::NotMarked => {}
        }
    }
    if !domain.is_hardware || !is_for(&domain, one(gfn)) {
        return Answer::Emulate;
    }
    let block = device_block(&domain, gfn);
    match p2m.insert_device_around((&mut DirectTables, &mut domain.limits.tables()), gfn, block) {
        Ok(flush) => {
            let _ = flush.completed();
            Answer::Retry
        }
        Err(P2mError::OutOfTables(flush)) => {
            let _ = flush.completed();
            Answer::OutOfMemory
        }
        Err(P2mError::Occupied | P2mError::OutOfRange) => Answer::Emulate,
    }
}

/// Large leaves are not executable on some CPUs, and are split where code turns out to be (CVE-2018-12207).
fn allow_fetch<H: VcpuHw>(
    runner: &mut Runner<H>,
    p2m: &mut RankedGuard<'_, P2m, { rank::P2M }>,
    gfn: Gfn,
) -> Answer {
    let limits = &runner.domain.limits;
    match p2m.allow_execute((&mut DirectTables, &mut limits.tables()), gfn) {
        Ok(Some(flush)) => {
            runner.hw.flush_stage2(runner.domain.stage2);
            let _ = flush.completed();
            Answer::Retry
        }
        Ok(None) => Answer::Emulate,
        Err(_) => Answer::OutOfMemory,
    }
}

/// True where devices have all these frames, and the domain may.
fn is_for(domain: &Domain, frames: MfnRange) -> bool {
    pci::is_device_memory(frames) && !pci::is_kept(domain, frames)
}

/// The largest run of device memory around `gfn`, within 1 GiB, that one leaf may map.
fn device_block(domain: &Domain, gfn: Gfn) -> MfnRange {
    let blocks = [PageOrder::SIZE_1G, PageOrder::SIZE_2M].map(|order| {
        let start = Mfn::new(gfn.align_down(order).as_u64());
        MfnRange::new(start, start + order.frames())
    });
    let block = blocks.into_iter().find(|&block| is_for(domain, block));
    block.unwrap_or(one(gfn))
}

fn one(gfn: Gfn) -> MfnRange {
    let mfn = Mfn::new(gfn.as_u64());
    MfnRange::new(mfn, mfn + 1)
}

/// A guest that touches what is not there learns nothing and disturbs nobody. dom0's ACPI code asks the HPET whether it
/// is there, and is to find that it is not.
pub(super) fn nothing_there<H: VcpuHw>(runner: &Runner<H>, gpa: Gpa) {
    let kept = &host::host().kept;
    if runner.domain.is_hardware
        && kept
            .iter()
            .any(|kept| kept.overlaps(one(Gfn::containing(gpa))))
    {
        return;
    }
    guest_log!(
        runner.domain.log,
        Warning,
        "{}: access to {gpa}, where nothing is",
        runner.vcpu().id
    );
}
