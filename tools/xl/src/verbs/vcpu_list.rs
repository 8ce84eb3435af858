//! `xl vcpu-list`: every vCPU, where it runs and where it may.

use clap::Parser;
use guest_abi::domctl::XenDomctlGetvcpuinfo;
use serde::Serialize;
use toolstack::domain::DomainInfo;
use toolstack::hypercall::Affinity;

use super::list::tenths;
use crate::context::{Context, shown_name};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Show the vCPUs of all domains, or of some
#[derive(Debug, Parser)]
pub struct VcpuList {
    /// Only these domains
    domains: Vec<String>,
}

/// One vCPU.
#[derive(Clone, Debug)]
pub struct Vcpu {
    /// Its domain's name.
    pub name: String,
    /// Its domain.
    pub domid: u16,
    /// What it does.
    pub info: XenDomctlGetvcpuinfo,
    /// Where it may run.
    pub affinity: Affinity,
}

impl Verb for VcpuList {
    fn run(self, context: &Context) -> Outcome {
        let domains = context.named_or_all(&self.domains)?;
        let nr_cpus = context.nr_cpus()?;
        let mut vcpus = Vec::new();
        for domain in &domains {
            vcpus.extend(vcpus_of(context, domain, nr_cpus)?);
        }
        if context.json() {
            return output::print_json(
                "vcpu-list",
                vcpus
                    .iter()
                    .map(|v| Json::new(v, nr_cpus))
                    .collect::<Vec<_>>(),
            );
        }
        output::print(&text(&vcpus, nr_cpus))
    }
}

fn vcpus_of(context: &Context, domain: &DomainInfo, nr_cpus: u32) -> Result<Vec<Vcpu>, Failure> {
    let hyper = context.hyper()?;
    (0..=domain.max_vcpu_id)
        .map(|vcpu| {
            Ok(Vcpu {
                name: shown_name(domain).to_owned(),
                domid: domain.domid,
                info: hyper.vcpu_info(domain.domid, vcpu)?,
                affinity: hyper.get_vcpu_affinity(domain.domid, vcpu, nr_cpus)?,
            })
        })
        .collect()
}

/// Gives the table.
pub fn text(vcpus: &[Vcpu], nr_cpus: u32) -> String {
    let mut text = format!(
        "{:<32} {:>5} {:>5} {:>5} {:>5} {:>9} {}\n",
        "Name", "ID", "VCPU", "CPU", "State", "Time(s)", "Affinity (Hard / Soft)"
    );
    for Vcpu {
        name,
        domid,
        info,
        affinity,
    } in vcpus
    {
        let place = if info.online == 0 {
            format!("{:>5} {:>3}{}p ", '-', '-', '-')
        } else {
            let flag = |is: u8, letter| if is != 0 { letter } else { '-' };
            format!(
                "{:>5} {:>3}{}- ",
                info.cpu,
                flag(info.running, 'r'),
                flag(info.blocked, 'b')
            )
        };
        text.push_str(&format!(
            "{name:<32} {domid:>5} {:>5}{place}{}  {} / {}\n",
            info.vcpu,
            tenths(info.cpu_time, 9),
            cpu_ranges(&affinity.hard, nr_cpus),
            cpu_ranges(&affinity.soft, nr_cpus),
        ));
    }
    text
}

/// Spells a mask: `all`, `none`, `0-3,5`.
pub fn cpu_ranges(mask: &[u8], nr_cpus: u32) -> String {
    let cpus = cpus(mask, nr_cpus);
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for cpu in cpus {
        match ranges.last_mut() {
            Some((_, to)) if *to + 1 == cpu => *to = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    match ranges.as_slice() {
        [] => "none".to_owned(),
        [(0, to)] if to + 1 == nr_cpus => "all".to_owned(),
        _ => {
            let spell = |(from, to): &(u32, u32)| {
                if from == to {
                    from.to_string()
                } else {
                    format!("{from}-{to}")
                }
            };
            ranges.iter().map(spell).collect::<Vec<_>>().join(",")
        }
    }
}

/// Gives the CPUs of a mask, bit by bit, below `nr_cpus`.
pub fn cpus(mask: &[u8], nr_cpus: u32) -> Vec<u32> {
    let is_set = |cpu: &u32| {
        mask.get((cpu / 8) as usize)
            .is_some_and(|byte| byte >> (cpu % 8) & 1 == 1)
    };
    (0..nr_cpus).filter(is_set).collect()
}

#[derive(Serialize)]
struct Json<'a> {
    domid: u16,
    name: &'a str,
    vcpu: u32,
    cpu: Option<u32>,
    online: bool,
    running: bool,
    blocked: bool,
    cpu_time_ns: u64,
    hard_affinity: Vec<u32>,
    soft_affinity: Vec<u32>,
}

impl<'a> Json<'a> {
    fn new(vcpu: &'a Vcpu, nr_cpus: u32) -> Self {
        let info = &vcpu.info;
        Self {
            domid: vcpu.domid,
            name: &vcpu.name,
            vcpu: info.vcpu,
            cpu: (info.online != 0).then_some(info.cpu),
            online: info.online != 0,
            running: info.running != 0,
            blocked: info.blocked != 0,
            cpu_time_ns: info.cpu_time,
            hard_affinity: cpus(&vcpu.affinity.hard, nr_cpus),
            soft_affinity: cpus(&vcpu.affinity.soft, nr_cpus),
        }
    }
}
