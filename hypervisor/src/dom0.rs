//! The first domain: built from the boot modules, it owns the real devices.

use hv_hw::percpu::IrqsOff;

use crate::Machine;

/// Builds dom0 from the machine's modules and runs it for ever.
pub fn build_and_run(machine: Machine, _irqs_off: IrqsOff) -> ! {
    crate::start::fatal(format_args!(
        "this build cannot start a dom0 yet ({} modules are loaded)",
        machine.modules.len()
    ))
}
