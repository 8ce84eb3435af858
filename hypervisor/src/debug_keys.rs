//! Debug keys: what the hypervisor prints when it is asked.

use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use hv_hw::{console, info};

use crate::domain::{Domain, registry};
use crate::vcpu::Requests;
use crate::{host, memory};

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

fn domains() {
    for domain in registry::all() {
        info!(
            "{}: {} pages, {} vCPUs{}{}",
            domain.id,
            domain.pages(),
            domain.vcpus.len(),
            if domain.is_hardware {
                ", hardware domain"
            } else {
                ""
            },
            domain.ended().map_or("", |_| ", ended")
        );
        for vcpu in &domain.vcpus {
            info!(
                "  {}: {} apic {:#x} upcall vector {:#x}{}{}",
                vcpu.id,
                if vcpu.is_up.load(Ordering::Relaxed) {
                    "up"
                } else {
                    "down"
                },
                vcpu.apic_id,
                vcpu.upcall_vector.load(Ordering::Relaxed),
                if vcpu.is_polling() { ", polling" } else { "" },
                if vcpu.posted.is_waiting() {
                    ", interrupts waiting"
                } else {
                    ""
                }
            );
        }
    }
}

fn events() {
    for domain in registry::all() {
        let mut text = String::new();
        {
            let events = domain.events.lock();
            for (port, status) in events.open_ports() {
                let _ = writeln!(
                    text,
                    "  {port}: {:?} vcpu {}{}{}",
                    status.state,
                    status.vcpu,
                    if status.is_pending { " pending" } else { "" },
                    if status.is_masked { " masked" } else { "" }
                );
            }
        }
        info!("{}: event channels", domain.id);
        for line in text.lines() {
            info!("{line}");
        }
    }
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
