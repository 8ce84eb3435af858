//! How a vCPU comes to the CPU that is to run it: whoever makes it allocates what it runs on ([`spawn`]), its CPU finds
//! it in its queue.

use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_hw::sync::atomic::Ordering;

use guest_abi::errno::Errno;
use hv_hw::once_a_machine;
use hv_hw::percpu::MAX_CPUS;
use hv_hw::sync::{RankedLock, rank};

use crate::domain::Domain;
use crate::domain::vcpu_frames::VcpuFrames;
use crate::machine::cpus::{self, PendingWork};
use crate::machine::memory;

type Queue = RankedLock<Vec<HandOff>, { rank::SCHED }>;

/// The vCPUs that each CPU is to run from now on.
struct Queues([Queue; MAX_CPUS]);

impl Queues {
    const fn new() -> Self {
        Self([const { RankedLock::new(Vec::new()) }; MAX_CPUS])
    }
}

once_a_machine! {
    /// The queues of the machine's CPUs.
    fn queues() -> Queues = Queues::new();
}

/// A vCPU on its way to the CPU that is to run it.
pub(crate) struct HandOff {
    pub domain: Arc<Domain>,
    pub index: usize,
    /// What it runs on.
    pub parts: VcpuFrames,
}

/// Gives vCPU `index` what it runs on and sends it to a CPU; without effect where that was done, by whomever.
///
/// # Errors
/// ENOMEM; EINVAL for a domain that is being destroyed.
pub(crate) fn spawn(domain: &Arc<Domain>, index: usize) -> Result<(), Errno> {
    let vcpu = domain.vcpus.get(index).ok_or(Errno::EINVAL)?;
    if vcpu.is_made() {
        return Ok(());
    }
    // its CPU allocates as well, when it moves in, and cannot refuse then
    if !memory::heap_has_room() {
        return Err(Errno::ENOMEM);
    }
    let parts = VcpuFrames::alloc().ok_or(Errno::ENOMEM)?;
    // whoever destroys the domain waits for it, or has said so before
    domain.runners.fetch_add(1, Ordering::SeqCst);
    let is_dying = domain.is_dying();
    if is_dying || !vcpu.set_made() {
        domain.runners.fetch_sub(1, Ordering::AcqRel);
        return if is_dying { Err(Errno::EINVAL) } else { Ok(()) };
    }
    let hand_off = HandOff {
        domain: domain.clone(),
        index,
        parts,
    };
    send(vcpu.home(), hand_off);
    Ok(())
}

/// Gives a CPU another vCPU to run.
pub(crate) fn send(cpu: u32, hand_off: HandOff) {
    if let Some(queue) = queue(cpu) {
        queue.lock().push(hand_off);
    }
    cpus::tell(cpu, PendingWork::HandOffs);
}

/// Takes the vCPUs that were sent to a CPU.
pub(super) fn take(cpu: u32) -> Vec<HandOff> {
    queue(cpu).map_or_else(Vec::new, |queue| core::mem::take(&mut *queue.lock()))
}

fn queue(cpu: u32) -> Option<&'static Queue> {
    queues().0.get(usize::try_from(cpu).ok()?)
}
