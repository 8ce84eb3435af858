//! `xl info`: the host, one `key : value` a line, in xl's order.

use std::fmt::Write as _;

use clap::Parser;
use guest_abi::sysctl::*;
use toolstack::hypercall::{Topology, VersionInfo};

use super::sched::scheduler_name;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Show the host: CPUs, memory, versions
#[derive(Debug, Parser)]
pub struct Info {
    /// Show CPUs and NUMA nodes too
    #[arg(short, long)]
    numa: bool,
    /// Print the value of this key alone, as in xl info free_memory
    key: Option<String>,
}

/// What is shown.
#[derive(Clone, Debug)]
pub struct Host {
    /// dom0's uname: node, release, version, machine.
    pub uname: [String; 4],
    /// CPUs and memory.
    pub physical: XenSysctlPhysinfo,
    /// CPUs in no pool.
    pub free_cpus: u32,
    /// The hypervisor.
    pub version: VersionInfo,
    /// Its scheduler.
    pub scheduler: &'static str,
}

impl Verb for Info {
    fn run(self, context: &Context) -> Outcome {
        let host = host(context)?;
        if context.json() {
            let mut map = typed(&host);
            if self.numa {
                map.insert(
                    "topology".to_owned(),
                    topology_json(&context.hyper()?.topology()?),
                );
            }
            map.retain(|key, _| self.key.as_ref().is_none_or(|wanted| wanted == key));
            return output::print_json("info", map);
        }
        if let Some(key) = &self.key {
            let value = lines(&host)
                .into_iter()
                .find(|(known, _)| known == key)
                .map(|(_, value)| value);
            let value =
                value.ok_or_else(|| Failure::new(format!("xl info: there is no key \"{key}\"")))?;
            return output::print(&format!("{value}\n"));
        }
        let topology = if self.numa {
            Some(context.hyper()?.topology()?)
        } else {
            None
        };
        output::print(&text(&host, topology.as_ref()))
    }
}

fn host(context: &Context) -> Result<Host, Failure> {
    let hyper = context.hyper()?;
    let uname = rustix::system::uname();
    let word = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let physical = hyper.physinfo()?;
    Ok(Host {
        uname: [
            word(uname.nodename()),
            word(uname.release()),
            word(uname.version()),
            word(uname.machine()),
        ],
        free_cpus: free_cpus(context, &physical)?,
        version: hyper.version_info()?,
        scheduler: scheduler_name(hyper.scheduler()?),
        physical,
    })
}

fn free_cpus(context: &Context, physical: &XenSysctlPhysinfo) -> Result<u32, Failure> {
    let pools = super::cpupool_list::pools(context, physical.max_cpu_id + 1)?;
    let used: u32 = pools
        .iter()
        .flat_map(|pool| &pool.cpus)
        .map(|byte| byte.count_ones())
        .sum();
    Ok(physical.nr_cpus.saturating_sub(used))
}

/// Gives keys and values in xl's order.
pub fn lines(host: &Host) -> Vec<Line> {
    let mut lines = machine_lines(host);
    lines.extend(memory_lines(host));
    lines.extend(hypervisor_lines(host));
    lines
}

/// Keys whose values are numbers.
const NUMBERS: [&str; 17] = [
    "nr_cpus",
    "max_cpu_id",
    "nr_nodes",
    "cores_per_socket",
    "threads_per_core",
    "cpu_mhz",
    "total_memory",
    "free_memory",
    "sharing_freed_memory",
    "sharing_used_memory",
    "outstanding_claims",
    "free_cpus",
    "xen_major",
    "xen_minor",
    "xen_pagesize",
    "xend_config_format",
    "cpu_khz",
];
/// Keys whose values are lists of words.
const LISTS: [&str; 2] = ["virt_caps", "xen_caps"];

/// Gives the lines as JSON: numbers as numbers, words as lists.
pub fn typed(host: &Host) -> serde_json::Map<String, serde_json::Value> {
    let mut lines = lines(host);
    lines.push(("cpu_khz", host.physical.cpu_khz.to_string()));
    let value = |key: &str, text: String| -> serde_json::Value {
        if LISTS.contains(&key) {
            return text.split_whitespace().collect();
        }
        match text.parse::<serde_json::Number>() {
            Ok(number) if NUMBERS.contains(&key) => number.into(),
            _ => text.into(),
        }
    };
    lines
        .into_iter()
        .map(|(key, text)| (key.to_owned(), value(key, text)))
        .collect()
}

fn topology_json(topology: &Topology) -> serde_json::Value {
    let there = |(_, at): &(usize, &XenSysctlCputopo)| at.core != u32::MAX;
    let cpus = topology.cpus.iter().enumerate().filter(there).map(|(cpu, at)| {
        serde_json::json!({"cpu": cpu, "core": at.core, "socket": at.socket, "node": at.node})
    });
    let nodes = topology.nodes.iter().enumerate().map(|(node, memory)| {
        serde_json::json!({"node": node, "memory_bytes": memory.memsize, "free_bytes": memory.memfree})
    });
    serde_json::json!({
        "cpus": cpus.collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
    })
}

/// A key and its value.
type Line = (&'static str, String);

fn machine_lines(host: &Host) -> Vec<Line> {
    let physical = &host.physical;
    let [node, release, uname_version, machine] = host.uname.clone();
    vec![
        ("host", node),
        ("release", release),
        ("version", uname_version),
        ("machine", machine),
        ("nr_cpus", physical.nr_cpus.to_string()),
        ("max_cpu_id", physical.max_cpu_id.to_string()),
        ("nr_nodes", physical.nr_nodes.to_string()),
        ("cores_per_socket", physical.cores_per_socket.to_string()),
        ("threads_per_core", physical.threads_per_core.to_string()),
        (
            "cpu_mhz",
            format!("{}.{:03}", physical.cpu_khz / 1000, physical.cpu_khz % 1000),
        ),
        (
            "hw_caps",
            physical.hw_cap.map(|word| format!("{word:08x}")).join(":"),
        ),
        ("virt_caps", virt_caps(physical.capabilities)),
    ]
}

fn memory_lines(host: &Host) -> Vec<Line> {
    let physical = &host.physical;
    // A page is 4 KiB here.
    let mib = |pages: u64| (pages >> 8).to_string();
    vec![
        ("total_memory", mib(physical.total_pages)),
        (
            "free_memory",
            mib(physical
                .free_pages
                .saturating_sub(physical.outstanding_pages)),
        ),
        // Pages are not shared between guests here, and Xen reads 0 too where they are not.
        ("sharing_freed_memory", "0".to_owned()),
        ("sharing_used_memory", "0".to_owned()),
        ("outstanding_claims", mib(physical.outstanding_pages)),
        ("free_cpus", host.free_cpus.to_string()),
    ]
}

fn hypervisor_lines(host: &Host) -> Vec<Line> {
    let version = &host.version;
    vec![
        ("xen_major", version.major.to_string()),
        ("xen_minor", version.minor.to_string()),
        ("xen_extra", version.extra.clone()),
        (
            "xen_version",
            format!("{}.{}{}", version.major, version.minor, version.extra),
        ),
        ("xen_caps", version.capabilities.clone()),
        ("xen_scheduler", host.scheduler.to_owned()),
        ("xen_pagesize", version.pagesize.to_string()),
        (
            "platform_params",
            format!("virt_start={:#x}", version.virt_start),
        ),
        ("xen_changeset", version.changeset.clone()),
        ("xen_commandline", version.commandline.clone()),
        ("cc_compiler", version.compiler.clone()),
        ("cc_compile_by", version.compile_by.clone()),
        ("cc_compile_domain", version.compile_domain.clone()),
        ("cc_compile_date", version.compile_date.clone()),
        (
            "build_id",
            version
                .build_id
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        ),
        ("xend_config_format", "4".to_owned()),
    ]
}

fn virt_caps(flags: u32) -> String {
    let has = |flag| flags & flag != 0;
    let (pv, hvm, directio) = (
        has(XEN_SYSCTL_PHYSCAP_pv),
        has(XEN_SYSCTL_PHYSCAP_hvm),
        has(XEN_SYSCTL_PHYSCAP_directio),
    );
    let names = [
        (pv, "pv"),
        (hvm, "hvm"),
        (hvm && directio, "hvm_directio"),
        (pv && directio, "pv_directio"),
        (has(XEN_SYSCTL_PHYSCAP_hap), "hap"),
        (has(XEN_SYSCTL_PHYSCAP_shadow), "shadow"),
        (has(XEN_SYSCTL_PHYSCAP_gnttab_v1), "gnttab-v1"),
        (has(XEN_SYSCTL_PHYSCAP_gnttab_v2), "gnttab-v2"),
    ];
    names
        .iter()
        .filter(|(has, _)| *has)
        .map(|(_, name)| *name)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Gives the whole text; with a topology that of `-n`.
pub fn text(host: &Host, topology: Option<&Topology>) -> String {
    let mut text = String::new();
    for (key, value) in lines(host) {
        if let (Some(topology), "xen_major") = (topology, key) {
            text.push_str(&topology_text(topology));
        }
        writeln!(text, "{key:<23}: {value}").expect("a String takes all text");
    }
    text
}

fn topology_text(topology: &Topology) -> String {
    let mut text = String::from("cpu_topology           :\ncpu:    core    socket     node\n");
    let mut put =
        |part: std::fmt::Arguments<'_>| text.write_fmt(part).expect("a String takes all text");
    for (cpu, at) in topology
        .cpus
        .iter()
        .enumerate()
        .filter(|(_, at)| at.core != u32::MAX)
    {
        put(format_args!(
            "{cpu:>3}:    {:>4}     {:>4}     {:>4}\n",
            at.core, at.socket, at.node
        ));
    }
    put(format_args!(
        "device topology        :\ndevice           node\nNo device topology data available\n"
    ));
    put(format_args!(
        "numa_info              :\nnode:    memsize    memfree    distances\n"
    ));
    let count = topology.nodes.len().max(1);
    for (node, memory) in topology.nodes.iter().enumerate() {
        let distances = topology
            .distances
            .chunks(count)
            .nth(node)
            .unwrap_or_default();
        let distances = distances
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",");
        put(format_args!(
            "{node:>4}:    {:>6}     {:>6}      {distances}\n",
            memory.memsize >> 20,
            memory.memfree >> 20
        ));
    }
    text
}
