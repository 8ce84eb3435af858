//! A host interrupt: whose is it?
//!
//! Route card, device interrupt → guest:
//! - hypervisor/hv-hw/src/cpu/entry.S (stub, when idle) or hypervisor/hv-hw/src/virt/vtx/exit.rs:decode (in a guest)
//! - hypervisor/src/pcpu/irq.rs:handle
//! - hypervisor/src/domain/interrupts.rs:device
//! - hypervisor/src/domain/devices.rs:raise, hypervisor/hv-core/src/device/ioapic.rs:IoApic
//! - hypervisor/src/domain/interrupts.rs:deliver
//! - hypervisor/src/domain/vcpu.rs:kick
//! - hypervisor/src/runner/inject.rs:prepare
//! - hypervisor/hv-hw/src/virt/vtx/inject.rs:write

use hv_hw::irq::{local, vectors};

use super::Pcpu;
use crate::console;
use crate::domain::interrupts;

/// Serves the interrupt with this vector and ends it.
pub(crate) fn handle(pcpu: &mut Pcpu, vector: u8) {
    match vector {
        vectors::TIMER => {
            local::eoi();
            pcpu.expire_timers();
        }
        vectors::SERIAL => {
            local::eoi();
            if hv_hw::console::interrupt() {
                console::typed();
            }
        }
        vectors::SPURIOUS => {}
        vector if vectors::DEVICES.contains(&vector) => {
            interrupts::device(vector);
            local::eoi();
        }
        // kicks and the posted-interrupt notification say all by having come
        _ => local::eoi(),
    }
}
