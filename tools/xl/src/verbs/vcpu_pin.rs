//! `xl vcpu-pin`: where a vCPU may run (hard) and had better run (soft).

use clap::Parser;
use toolstack::config::{CpuList, HostConfig, NoCpuLeft};

use super::vcpu_list::cpu_ranges;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Set which CPUs a vCPU may run on
#[derive(Debug, Parser)]
pub struct VcpuPin {
    /// Override a pinning that the domain set for itself
    #[arg(short, long)]
    force: bool,
    /// Ignore the host's CPU masks (vm.cpumask and vm.hvm.cpumask of xl.conf)
    #[arg(short, long)]
    ignore_global_affinity_masks: bool,
    /// Domain: name, id or UUID
    domain: String,
    /// vCPU's number, or all
    vcpu: String,
    /// CPUs it may run on: all, 0-3, 0,2,^1, node:0; - leaves them
    hard: String,
    /// CPUs it had better run on; - leaves them
    soft: Option<String>,
}

impl Verb for VcpuPin {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let hyper = context.hyper()?;
        let topology = hyper.topology()?;
        let nr_cpus = context.nr_cpus()?;
        let node_of = |cpu: u32| topology.cpus.get(cpu as usize).map_or(0, |at| at.node);
        let own = HostConfig::default();
        let host = match self.ignore_global_affinity_masks {
            true => &own,
            false => context.host_telling(false)?,
        };
        let hard = mask(&self.hard, host, nr_cpus, node_of)?;
        let soft = self
            .soft
            .as_deref()
            .map_or(Ok(None), |soft| mask(soft, &own, nr_cpus, node_of))?;
        let vcpus = match self.vcpu.parse::<u32>() {
            Ok(vcpu) => vcpu..=vcpu,
            Err(_) if self.vcpu != "all" => {
                return Err(Failure::new(format!(
                    "Error: Invalid argument {} as VCPU.",
                    self.vcpu
                )));
            }
            Err(_) if self.force => {
                return Err(Failure::new(
                    "Error: --force and 'all' as VCPU not allowed.",
                ));
            }
            Err(_) => 0..=domain.max_vcpu_id,
        };
        if context.globals.dry_run {
            let spell =
                |mask: &Option<Vec<u8>>| mask.as_ref().map(|mask| cpu_ranges(mask, nr_cpus));
            if context.json() {
                let masks = serde_json::json!({"hard": spell(&hard), "soft": spell(&soft)});
                return output::print_json("vcpu-pin", masks);
            }
            let soft = spell(&soft).map_or_else(String::new, |soft| format!(" {soft}"));
            return output::print(&format!(
                "cpumap: {}{soft}\n",
                spell(&hard).unwrap_or_else(|| "-".into())
            ));
        }
        for vcpu in vcpus {
            hyper.set_vcpu_affinity(domain.domid, vcpu, hard.as_deref(), soft.as_deref())?;
        }
        Ok(())
    }
}

/// Reads a list of CPUs, of which those stay that the host allows; `None` for `-`.
fn mask(
    text: &str,
    host: &HostConfig,
    nr_cpus: u32,
    node_of: impl Fn(u32) -> u32,
) -> Result<Option<Vec<u8>>, Failure> {
    if text == "-" {
        return Ok(None);
    }
    let list: CpuList = text
        .parse()
        .map_err(|error| Failure::new(format!("xl: {error}")))?;
    let named = list.resolve(nr_cpus, &node_of);
    let none_named = named.is_empty();
    let cpus = host.allowed(named, nr_cpus, node_of);
    if cpus.is_empty() && !none_named {
        return Err(Failure::new(NoCpuLeft.to_string()));
    }
    if cpus.is_empty() {
        return Err(Failure::new(format!(
            "xl: \"{text}\" names none of the host's {nr_cpus} CPU(s)"
        )));
    }
    Ok(Some(bits(&cpus, nr_cpus)))
}

/// Gives a mask of bytes, bit by bit.
fn bits(cpus: &std::collections::BTreeSet<u32>, nr_cpus: u32) -> Vec<u8> {
    let mut mask = vec![0u8; nr_cpus.div_ceil(8).max(1) as usize];
    for cpu in cpus {
        if let Some(byte) = mask.get_mut((cpu / 8) as usize) {
            *byte |= 1 << (cpu % 8);
        }
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_and_spelt() {
        let host = HostConfig::default();
        let masked = HostConfig {
            cpu_masks: vec!["2-9".parse().unwrap()],
            ..HostConfig::default()
        };
        let by_host = |text: &str| mask(text, &masked, 12, |cpu| cpu / 6);
        assert_eq!(by_host("0-3,8").unwrap(), Some(vec![0x0c, 0x01]));
        assert!(
            by_host("0-1")
                .unwrap_err()
                .text
                .contains("affinity map is empty")
        );
        let mask = |text: &str| mask(text, &host, 12, |cpu| cpu / 6);
        assert_eq!(mask("0-3,8").unwrap(), Some(vec![0x0f, 0x01]));
        assert_eq!(mask("-").unwrap(), None);
        assert_eq!(
            cpu_ranges(&mask("node:1,^7").unwrap().unwrap(), 12),
            "6,8-11"
        );
        assert_eq!(cpu_ranges(&mask("all").unwrap().unwrap(), 12), "all");
        assert!(
            mask("12")
                .unwrap_err()
                .text
                .contains("none of the host's 12")
        );
        assert!(mask("x").is_err());
    }
}
