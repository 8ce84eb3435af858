//! Which CPU a domain sees, and which it runs on.

use crate::config::{CpuList, DomainConfig, TimeOffset};
use crate::hypercall::{HostPolicy, Topology};
use crate::{Error, Hyper, Result};

use guest_abi::domctl::XenCpuidLeaf;

/// Changes the CPUID policy where the configuration asks for it; the hypervisor's default is right otherwise.
pub(crate) fn apply(hyper: &Hyper, domid: u16, config: &DomainConfig) -> Result<()> {
    if config.cpuid.is_empty() {
        return Ok(());
    }
    let mut policy = hyper.host_policy(HostPolicy::HvmDefault)?;
    let host = hyper.host_policy(HostPolicy::Host)?;
    for rule in &config.cpuid {
        let is_it =
            |leaf: &&mut XenCpuidLeaf| leaf.leaf == rule.leaf && fits(leaf.subleaf, rule.subleaf);
        let Some(leaf) = policy.leaves.iter_mut().find(is_it) else {
            return Err(Error::Refused(format!(
                "cpuid: no domain has leaf {:#x} here",
                rule.leaf
            )));
        };
        let on_host = host
            .leaves
            .iter()
            .find(|other| other.leaf == leaf.leaf && other.subleaf == leaf.subleaf);
        let host_value = on_host
            .and_then(|leaf| register(*leaf, rule.register))
            .unwrap_or(0);
        let value = match rule.register {
            0 => &mut leaf.a,
            1 => &mut leaf.b,
            2 => &mut leaf.c,
            _ => &mut leaf.d,
        };
        *value = rule.apply(*value, host_value);
    }
    Ok(hyper.set_cpu_policy(domid, &policy)?)
}

/// A policy gives leaves without sub-leaves the number "all ones".
fn fits(subleaf: u32, asked: Option<u32>) -> bool {
    asked.map_or(subleaf == u32::MAX || subleaf == 0, |asked| {
        subleaf == asked
    })
}

fn register(leaf: XenCpuidLeaf, number: usize) -> Option<u32> {
    [leaf.a, leaf.b, leaf.c, leaf.d].get(number).copied()
}

/// Pins vCPUs, and sets weight and cap.
pub(crate) fn schedule(hyper: &Hyper, domid: u16, config: &DomainConfig) -> Result<()> {
    if !config.hard_affinity.is_empty() || !config.soft_affinity.is_empty() {
        let topology = hyper.topology()?;
        for vcpu in 0..config.max_vcpus {
            let hard = mask(&config.hard_affinity, vcpu, &topology)?;
            let soft = mask(&config.soft_affinity, vcpu, &topology)?;
            hyper.set_vcpu_affinity(domid, vcpu, hard.as_deref(), soft.as_deref())?;
        }
    }
    let sched = config.sched;
    if sched.weight.is_some() || sched.cap.is_some() {
        let scheduler = hyper.scheduler()?;
        let (weight, cap) = hyper.get_sched_params(domid, scheduler)?;
        hyper.set_sched_params(
            domid,
            scheduler,
            sched.weight.unwrap_or(weight),
            sched.cap.unwrap_or(cap),
        )?;
    }
    Ok(())
}

/// The CPUs of one vCPU, bit by bit: one list serves all, else each has its own.
fn mask(lists: &[CpuList], vcpu: u32, topology: &Topology) -> Result<Option<Vec<u8>>> {
    let list = match lists {
        [] => return Ok(None),
        [only] => only,
        several => match several.get(vcpu as usize) {
            Some(list) => list,
            None => return Ok(None),
        },
    };
    let nr_cpus = u32::try_from(topology.cpus.len()).unwrap_or(u32::MAX);
    let node_of = |cpu: u32| topology.cpus.get(cpu as usize).map_or(0, |topo| topo.node);
    let cpus = list.resolve(nr_cpus, node_of);
    if cpus.is_empty() {
        return Err(Error::Refused(format!(
            "vCPU {vcpu} is pinned to CPUs that this host has not (it has {nr_cpus})"
        )));
    }
    let mut bits = vec![0u8; nr_cpus.div_ceil(8) as usize];
    for cpu in cpus {
        if let Some(byte) = bits.get_mut(cpu as usize / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    Ok(Some(bits))
}

/// Seconds between UTC and a domain's wall clock.
pub(crate) fn clock_offset(offset: TimeOffset) -> i64 {
    let zone = if offset.localtime {
        local_offset().unwrap_or(0)
    } else {
        0
    };
    i64::from(offset.seconds) + zone
}

/// dom0's offset from UTC in seconds, as its `date` tells (`+0130`).
fn local_offset() -> Option<i64> {
    let output = std::process::Command::new("date")
        .arg("+%z")
        .output()
        .ok()?;
    zone_seconds(std::str::from_utf8(&output.stdout).ok()?.trim())
}

fn zone_seconds(text: &str) -> Option<i64> {
    let (sign, digits) = text.split_at_checked(1)?;
    let (hours, minutes) = digits.split_at_checked(2)?;
    let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    Some(if sign == "-" { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_read() {
        assert_eq!(zone_seconds("+0130"), Some(5400));
        assert_eq!(zone_seconds("-0500"), Some(-18000));
        assert_eq!(zone_seconds("UTC"), None);
    }
}
