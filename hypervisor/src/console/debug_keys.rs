//! Debug keys: what the hypervisor prints when it is asked.
//!
//! HOST LOG: somebody at the console pressed a key for each of these lines.

use hv_hw::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use hv_core::evtchn::{Port, Status};
use hv_core::vcpu::VcpuId;
use hv_core::vcpu::runstate::RunState;
use hv_hw::{console, info};

use crate::domain::vcpu::{Requests, Vcpu};
use crate::domain::{Domain, registry};
use crate::machine::{host, memory};

/// The keys.
const KEYS: &[(u8, &str, fn())] = &[
    (b'h', "this help", help),
    (b'd', "registers of every vCPU", registers),
    (b'q', "domains and vCPUs", domains),
    (b'e', "event channels", events),
    (b'r', "run states", run_states),
    (b'm', "memory", show_memory),
    (b'x', "VM exits by reason", exits),
    (b'R', "reboot the machine at once", reboot),
];

/// A key was pressed.
pub(crate) fn pressed(key: u8) {
    match KEYS.iter().find(|(known, _, _)| *known == key) {
        Some((_, _, act)) => act(),
        None if key.is_ascii_graphic() => {
            info!("no such debug key: '{}' (h for help)", char::from(key));
        }
        None => {}
    }
}

fn help() {
    for (key, what, _) in KEYS {
        info!("key '{}': {what}", char::from(*key));
    }
}

/// Registers are printed by the CPU that runs the vCPU, at its next entry.
fn registers() {
    for domain in registry::all() {
        for vcpu in &domain.vcpus {
            vcpu.request(Requests::DUMP);
        }
    }
}

/// Prints the state of a vCPU, when a CPU has come to answer [`registers`].
pub(crate) fn show_registers(of: VcpuId, text: &str) {
    for line in text.lines() {
        info!("{of}: {line}");
    }
}

fn domains() {
    let now = host::now_ns();
    for domain in registry::all() {
        describe(&domain);
        for vcpu in domain.vcpus.iter().filter(|vcpu| vcpu.is_made()) {
            describe_vcpu(vcpu, now);
        }
    }
}

fn describe(domain: &Domain) {
    let (teardown_stage, pauses, ended) = {
        let lifecycle = domain.lifecycle.lock();
        (
            lifecycle.teardown_stage(),
            lifecycle.pauses,
            lifecycle.ended,
        )
    };
    info!(
        "{}: {} of {} pages, {} in all, {} of tables, {} vCPUs, weight {}{}",
        domain.id,
        domain.pages(),
        domain.limits.max_pages.load(Ordering::Relaxed),
        memory::charged(domain.id),
        domain.limits.pool.used(),
        domain.vcpus.len(),
        domain.weight.load(Ordering::Relaxed),
        if domain.is_hardware {
            ", hardware domain"
        } else {
            ""
        }
    );
    info!(
        "  held by {:?}, {pauses} pauses, ended {ended:?}, teardown {teardown_stage:?}",
        domain.pause_reasons()
    );
}

fn describe_vcpu(vcpu: &Vcpu, now: u64) {
    let state = vcpu.account.lock().state();
    let flag = |is_set: bool, text: &'static str| if is_set { text } else { "" };
    info!(
        "  {}: {} {:?} on cpu{} for {} ms, apic {:#x} upcall vector {:#x}{}{}",
        vcpu.id,
        if vcpu.is_up.load(Ordering::Relaxed) {
            "up"
        } else {
            "down"
        },
        state.state(),
        vcpu.home(),
        state.time_in(RunState::Running, now) / 1_000_000,
        vcpu.apic_id,
        vcpu.upcall_vector.load(Ordering::Relaxed),
        flag(vcpu.is_polling(), ", polling"),
        flag(vcpu.posted.is_waiting(), ", interrupts waiting")
    );
}

fn events() {
    for domain in registry::all() {
        info!("{}: event channels", domain.id);
        let mut first = Port::new(1);
        while let Some(last) = print_ports(&domain, first) {
            first = Port::new(last.get().saturating_add(1));
        }
    }
}

/// Prints a few of the ports from `first` on, copied under the lock; the last of them, or `None` where there are no
/// more.
fn print_ports(domain: &Domain, first: Port) -> Option<Port> {
    let ports: ArrayVec<(Port, Status), 32> = {
        let events = domain.events.lock();
        events.open_ports(first).take(32).collect()
    };
    for (port, status) in &ports {
        info!(
            "  {port}: {:?} vcpu {}{}{}",
            status.state,
            status.vcpu,
            if status.is_pending { " pending" } else { "" },
            if status.is_masked { " masked" } else { "" }
        );
    }
    ports.last().map(|(port, _)| *port)
}

fn run_states() {
    let now = host::now_ns();
    info!("system time {now} ns");
    for domain in registry::all() {
        for vcpu in &domain.vcpus {
            let state = vcpu.account.lock().state();
            info!("  {}: {state:?}", vcpu.id);
        }
    }
}

fn show_memory() {
    let (used, size) = hv_hw::heap::usage();
    info!(
        "free frames {} ({} MiB)",
        memory::free_frames(),
        memory::free_frames() >> 8
    );
    info!("heap {used} of {size} bytes");
    for domain in registry::all() {
        info!("{}: {} pages", domain.id, domain.pages());
    }
}

/// The last line is for programs: the sum, and the system time.
fn exits() {
    let mut total = 0;
    for domain in registry::all() {
        total += print_exits(&domain);
    }
    info!("exits total={total} time_us={}", host::now_ns() / 1000);
}

fn print_exits(domain: &Domain) -> u64 {
    let mut total = 0;
    for vcpu in &domain.vcpus {
        let counts = &vcpu.counts;
        info!("{}: {} exits", vcpu.id, counts.total());
        total += counts.total();
        for (name, count) in counts.iter() {
            info!("  {name}: {count}");
        }
    }
    total
}

fn reboot() {
    info!("rebooting");
    console::flush();
    hv_hw::shutdown::reset()
}
