//! Samples: the hypervisor's counts of domains, dom0's of their cards and disks.
//!
//! blkback counts in `/sys/bus/xen-backend/devices/vbd-DOMID-DEVICE/statistics`; a card's traffic is its interface's,
//! `vifDOMID.DEVID`, in `/proc/net/dev`.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use guest_abi::sched::SHUTDOWN_crash;
use toolstack::domain::DomainInfo;

use super::{Disk, Network, Sample, State, Traffic, Usage};
use crate::context::{Context, shown_name};
use crate::failure::Failure;

const DISKS: &str = "/sys/bus/xen-backend/devices";
const PAGE_BYTES: u64 = 4096;

/// Takes samples, and remembers the last for what happened since.
pub struct Collector<'a> {
    context: &'a Context,
    last: Option<(Instant, HashMap<u16, u64>)>,
}

impl<'a> Collector<'a> {
    /// Makes one.
    ///
    /// # Errors
    /// No hypervisor or no xenstore.
    pub fn new(context: &'a Context) -> Result<Self, Failure> {
        context.toolstack()?;
        Ok(Self {
            context,
            last: None,
        })
    }

    /// Takes a sample.
    ///
    /// # Errors
    /// The hypervisor's, xenstore's.
    pub fn sample(&mut self) -> Result<Sample, Failure> {
        let toolstack = self.context.toolstack()?;
        let physical = toolstack.hyper.physinfo()?;
        let domains = toolstack.list()?;
        let now = Instant::now();
        let interfaces = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
        let usages = domains
            .iter()
            .map(|domain| self.usage(domain, now, &interfaces))
            .collect::<Vec<_>>();
        self.last = Some((
            now,
            domains
                .iter()
                .map(|domain| (domain.domid, domain.cpu_time_ns))
                .collect(),
        ));
        Ok(Sample {
            total_bytes: physical.total_pages.saturating_mul(PAGE_BYTES),
            free_bytes: physical.free_pages.saturating_mul(PAGE_BYTES),
            cpus: physical.nr_cpus,
            cpu_khz: physical.cpu_khz,
            domains: usages,
        })
    }

    fn usage(&self, domain: &DomainInfo, now: Instant, interfaces: &str) -> Usage {
        let crashed = domain
            .state
            .shutdown
            .is_some_and(|reason| u32::from(reason) == SHUTDOWN_crash);
        let max = domain.max_pages.saturating_mul(PAGE_BYTES);
        Usage {
            name: shown_name(domain).to_owned(),
            domid: domain.domid,
            state: State {
                dying: domain.state.dying,
                shutdown: domain.state.shutdown.is_some() && !crashed,
                blocked: domain.state.blocked,
                crashed,
                paused: domain.state.paused,
                running: domain.state.running,
            },
            cpu_ns: domain.cpu_time_ns,
            cpu_percent: self.cpu_percent(domain, now),
            memory_bytes: domain.tot_pages.saturating_mul(PAGE_BYTES),
            // A domain without a limit has one beyond all memory.
            max_memory_bytes: Some(max).filter(|max| *max < 1 << 52),
            online_vcpus: domain.online_vcpus,
            vcpu_ns: self.vcpus(domain),
            networks: networks(interfaces, domain.domid),
            disks: disks(Path::new(DISKS), domain.domid),
            ssid: domain.ssidref,
        }
    }

    fn cpu_percent(&self, domain: &DomainInfo, now: Instant) -> f64 {
        let Some((at, before)) = &self.last else {
            return 0.0;
        };
        let Some(before) = before.get(&domain.domid) else {
            return 0.0;
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "one decimal of percent is shown"
        )]
        let used = domain.cpu_time_ns.saturating_sub(*before) as f64;
        let elapsed = now.duration_since(*at).as_secs_f64() * 1e9;
        if elapsed > 0.0 {
            used / elapsed * 100.0
        } else {
            0.0
        }
    }

    fn vcpus(&self, domain: &DomainInfo) -> Vec<Option<u64>> {
        let Ok(hyper) = self.context.hyper() else {
            return Vec::new();
        };
        (0..=domain.max_vcpu_id)
            .map(|vcpu| {
                // A domain that ended since the list was made has none.
                hyper
                    .vcpu_info(domain.domid, vcpu)
                    .ok()
                    .filter(|info| info.online != 0)
                    .map(|info| info.cpu_time)
            })
            .collect()
    }
}

/// Reads a domain's cards from the text of `/proc/net/dev`.
fn networks(interfaces: &str, domid: u16) -> Vec<Network> {
    let prefix = format!("vif{domid}.");
    let mut found: Vec<(u32, Network)> = interfaces
        .lines()
        .filter_map(|line| {
            let (name, counts) = line.split_once(':')?;
            let devid = name.trim().strip_prefix(&prefix)?.parse().ok()?;
            let counts: Vec<u64> = counts
                .split_whitespace()
                .map(|n| n.parse().unwrap_or(0))
                .collect();
            let traffic = |from: usize| {
                let count = |at: usize| counts.get(from + at).copied().unwrap_or(0);
                Traffic {
                    bytes: count(0),
                    packets: count(1),
                    errors: count(2),
                    dropped: count(3),
                }
            };
            Some((
                devid,
                Network {
                    rx: traffic(0),
                    tx: traffic(8),
                },
            ))
        })
        .collect();
    found.sort_by_key(|(devid, _)| *devid);
    found.into_iter().map(|(_, network)| network).collect()
}

/// Reads a domain's disks from blkback's directories.
fn disks(directory: &Path, domid: u16) -> Vec<Disk> {
    let prefix = format!("vbd-{domid}-");
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found: Vec<Disk> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let device = entry
                .file_name()
                .to_str()?
                .strip_prefix(&prefix)?
                .parse()
                .ok()?;
            let count = |name: &str| {
                let text = std::fs::read_to_string(entry.path().join("statistics").join(name))
                    .unwrap_or_default();
                text.trim().parse().unwrap_or(0)
            };
            Some(Disk {
                device,
                out_of_requests: count("oo_req"),
                reads: count("rd_req"),
                writes: count("wr_req"),
                sectors_read: count("rd_sect"),
                sectors_written: count("wr_sect"),
            })
        })
        .collect();
    found.sort_by_key(|disk| disk.device);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_has_the_traffic_of_its_interfaces() {
        let text = "Inter-|   Receive    |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes packets errs drop\n\
            \x20 eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n  vif3.1: 21 22 23 24 0 0 0 0 25 26 27 28 0 0 0 0\n\
            vif3.0:11 12 13 14 0 0 0 0 15 16 17 18 0 0 0 0\nvif31.0: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n";
        let found = networks(text, 3);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0].rx,
            Traffic {
                bytes: 11,
                packets: 12,
                errors: 13,
                dropped: 14
            }
        );
        assert_eq!(
            found[1].tx,
            Traffic {
                bytes: 25,
                packets: 26,
                errors: 27,
                dropped: 28
            }
        );
    }

    #[test]
    fn a_domain_has_the_counts_of_its_backends() {
        let directory = tempfile::tempdir().unwrap();
        for (name, reads) in [
            ("vbd-3-51712", "7"),
            ("vbd-3-51728", "8"),
            ("vbd-31-51712", "9"),
            ("vif-3-0", "1"),
        ] {
            let statistics = directory.path().join(name).join("statistics");
            std::fs::create_dir_all(&statistics).unwrap();
            std::fs::write(statistics.join("rd_req"), format!("{reads}\n")).unwrap();
        }
        let found = disks(directory.path(), 3);
        assert_eq!(
            found
                .iter()
                .map(|disk| (disk.device, disk.reads))
                .collect::<Vec<_>>(),
            [(51712, 7), (51728, 8)]
        );
        assert!(disks(Path::new("/nonexistent"), 3).is_empty());
    }
}
