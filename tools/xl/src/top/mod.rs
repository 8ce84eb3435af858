//! What `xl top` shows: samples of the domains, as xentop's text or on a live screen.
//!
//! [`collect`] asks the hypervisor, and dom0's kernel for what the backends count; [`batch`] and [`live`] show it.

pub mod batch;
pub mod collect;
pub mod live;

use serde::Serialize;

/// The host and all domains at one time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Memory of the host in bytes.
    pub total_bytes: u64,
    /// What of it is free.
    pub free_bytes: u64,
    /// CPUs of the host.
    pub cpus: u32,
    /// Their clock in kHz.
    pub cpu_khz: u32,
    /// Domains in ascending order of id.
    pub domains: Vec<Usage>,
}

/// What one domain uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Its name.
    pub name: String,
    /// Its id.
    pub domid: u16,
    /// Its states.
    pub state: State,
    /// CPU time in ns.
    pub cpu_ns: u64,
    /// Share of one CPU since the last sample, in percent.
    pub cpu_percent: f64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Most memory in bytes; `None` without a limit.
    pub max_memory_bytes: Option<u64>,
    /// vCPUs that are online.
    pub online_vcpus: u32,
    /// CPU time of each vCPU in ns; `None` where it is offline.
    pub vcpu_ns: Vec<Option<u64>>,
    /// Network cards.
    pub networks: Vec<Network>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Security label.
    pub ssid: u32,
}

/// A domain's states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the states are independent")]
pub struct State {
    /// Being destroyed.
    pub dying: bool,
    /// Shut down, but not by a crash.
    pub shutdown: bool,
    /// All vCPUs wait.
    pub blocked: bool,
    /// Crashed.
    pub crashed: bool,
    /// Paused.
    pub paused: bool,
    /// Some vCPU runs.
    pub running: bool,
}

impl State {
    /// Gives xentop's six letters.
    pub fn letters(self) -> String {
        [
            (self.dying, 'd'),
            (self.shutdown, 's'),
            (self.blocked, 'b'),
            (self.crashed, 'c'),
            (self.paused, 'p'),
            (self.running, 'r'),
        ]
        .iter()
        .map(|(is, letter)| if *is { *letter } else { '-' })
        .collect()
    }
}

/// What a card's interface in dom0 counts: as in xentop, sent and received are dom0's, the other way round in the
/// guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Received.
    pub rx: Traffic,
    /// Sent.
    pub tx: Traffic,
}

/// One direction of a card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Dropped.
    pub dropped: u64,
}

/// What a disk's backend counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Virtual device number.
    pub device: u32,
    /// Requests that had to wait for the backend's memory.
    pub out_of_requests: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Sectors read.
    pub sectors_read: u64,
    /// Sectors written.
    pub sectors_written: u64,
}
