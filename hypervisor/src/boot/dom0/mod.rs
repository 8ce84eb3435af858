//! dom0: the domain that owns the machine, from its kernel's file to its first instruction.
//!
//! Its memory is identity-mapped, so that devices reach it without an IOMMU. In order: the kernel is unpacked, memory
//! is planned and taken, everything is put in its place, and the vCPUs are made.

mod build;
mod kernel;
mod memory;
mod parts;

use alloc::sync::Arc;

use hv_core::cpuid::HostCpuid;
use hv_core::msr::HostMsrs;
use hv_core::options::Scheduler;
use hv_core::speculation::{self, Plan};
use hv_hw::cpu::msr::rdmsr_safe;
use hv_hw::percpu::IrqsOff;
use hv_hw::virt::{Backend, ExtendedState, WithBackend, defend};
use hv_hw::{console, time};

use crate::boot::{BootedMachine, milestone};
use crate::domain::{Domain, create, interrupts, registry, wallclock};
use crate::machine::cpus;
use crate::machine::host::{self, Host};
use crate::main_loop;
use crate::pcpu::Pcpu;
use crate::runner::make;

/// Makes dom0 and runs it.
pub(super) fn build_and_run(machine: BootedMachine, irqs_off: IrqsOff) -> ! {
    let (extended, speculation) = record_host(&machine, &irqs_off);
    hv_core::emulate::prepare();
    let domain = build::dom0(&machine);
    hand_over(&machine, &domain);
    drop(domain);
    create::prepare();
    milestone("dom0 entered");
    cpus::set_rate_limit(machine.options.sched_ratelimit_us);
    let run = Run {
        irqs_off,
        scheduler: machine.options.sched,
    };
    machine.probe.run(extended, speculation, run)
}

/// Runs vCPUs on this CPU, for ever.
struct Run {
    irqs_off: IrqsOff,
    scheduler: Scheduler,
}

impl WithBackend for Run {
    fn run<B: Backend>(self, backend: B) -> ! {
        main_loop::run(Pcpu::new(self.irqs_off), self.scheduler, make::by(backend))
    }
}

/// Records what the layers below need to know of the machine; returns by what its vCPUs are made.
fn record_host(machine: &BootedMachine, irqs_off: &IrqsOff) -> (ExtendedState, Plan) {
    let tsc_khz = u32::try_from(time::tsc_khz()).unwrap_or(u32::MAX);
    let mut cpuid = HostCpuid::read(parts::host_cpuid);
    parts::mend(&cpuid, irqs_off);
    let msrs = HostMsrs::read(&cpuid, rdmsr_safe);
    speculation::complete(&mut cpuid, &msrs);
    let speculation = parts::speculation(&cpuid, &msrs, &machine.options);
    defend(&speculation, irqs_off);
    parts::set_up_once(&cpuid, &speculation, irqs_off);
    let extended = parts::extended_state(&cpuid, &speculation);
    let features = machine.probe.features();
    host::init(Host {
        provides: parts::provides(&features, &speculation, &cpuid),
        features,
        xcr0: extended.xcr0,
        msrs,
        cpuid,
        tsc_khz,
        firmware: machine.firmware.clone(),
        screen: machine.screen,
        kept: parts::kept(machine),
        power_off: parts::power_off(machine),
        command_line: machine.command_line.clone(),
        options: machine.options.clone(),
    });
    (extended, speculation)
}

/// Gives dom0 what the hypervisor used until now.
fn hand_over(machine: &BootedMachine, domain: &Arc<Domain>) {
    let seconds_at = host::ns_at(machine.wall_clock_tsc);
    let _ = wallclock::set(machine.wall_clock_s, 0, seconds_at);
    registry::add(domain.clone());
    wallclock::tell(domain);
    interrupts::give_lines_to(domain.clone());
    console::release_vga();
}
