//! Interrupts of the real machine: controllers, vectors, the timer, and sleeping until one comes.
//!
//! Interrupts stay off while Rust runs. They arrive as VM exits: with VT-x the CPU has acknowledged them and gives
//! their vector; with AMD-V they still wait, and [`poll_interrupt`] takes them right after. Else they arrive in
//! [`wait_for_interrupt`], or in [`poll_interrupt`] where a guest keeps them from making exits. All hand the vector to
//! the same code of the core, which ends it with [`local::eoi`].

pub mod ioapic;
pub mod local;
mod pic;
pub mod timer;
pub mod vectors;

use core::sync::atomic::{AtomicU32, Ordering};

use hv_core::mem::TableFrames;

use crate::paging::OutOfFrames;
use crate::percpu::{self, IrqsOff, MAX_CPUS};

/// APIC ids by CPU number.
static APIC_IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// Silences the PICs and takes local APICs and the timer into use, on the CPU that boots. Needs the TSC's frequency.
/// I/O APICs are added one by one, see [`ioapic::add`].
///
/// # Errors
/// [`OutOfFrames`] where the local APIC cannot be mapped.
pub fn init(frames: &mut impl TableFrames) -> Result<(), OutOfFrames> {
    pic::silence();
    local::init(frames)?;
    local::enable();
    timer::init();
    timer::enable();
    if let Some(own) = usize::try_from(percpu::cpu_id())
        .ok()
        .and_then(|cpu| APIC_IDS.get(cpu))
    {
        own.store(local::id(), Ordering::Relaxed);
    }
    Ok(())
}

/// Makes CPU `cpu` leave its guest or its sleep and look around.
pub fn send_kick(cpu: u32) {
    if let Some(id) = usize::try_from(cpu).ok().and_then(|cpu| APIC_IDS.get(cpu)) {
        local::send_ipi(id.load(Ordering::Relaxed), vectors::KICK);
    }
}

/// Sleeps until an external interrupt arrives and returns its vector; `None` after a wake-up without one (NMI). The
/// interrupt is in service: end it with [`local::eoi`].
#[cfg(target_os = "none")]
pub fn wait_for_interrupt(_irqs_off: &mut IrqsOff) -> Option<u8> {
    // The stub turns interrupts off again before HLT's successor runs; after an NMI they are still on.
    x86_64::instructions::interrupts::enable_and_hlt();
    x86_64::instructions::interrupts::disable();
    percpu::this().take_vector()
}

/// On the host nothing sleeps and no interrupt comes.
#[cfg(not(target_os = "none"))]
pub fn wait_for_interrupt(_irqs_off: &mut IrqsOff) -> Option<u8> {
    percpu::this().take_vector()
}

/// Takes an interrupt that is pending now, without sleeping.
#[cfg(target_os = "none")]
pub fn poll_interrupt(_irqs_off: &mut IrqsOff) -> Option<u8> {
    x86_64::instructions::interrupts::enable();
    // STI delays interrupts by one instruction: this is it.
    x86_64::instructions::nop();
    x86_64::instructions::interrupts::disable();
    percpu::this().take_vector()
}

/// On the host nothing sleeps and no interrupt comes.
#[cfg(not(target_os = "none"))]
pub fn poll_interrupt(_irqs_off: &mut IrqsOff) -> Option<u8> {
    percpu::this().take_vector()
}
