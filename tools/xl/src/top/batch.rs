//! xentop's text: nineteen columns, right-aligned, one blank between; "no limit" is two words.

use std::fmt::Write as _;

use super::{Sample, Usage};

/// Names and widths of the columns.
const COLUMNS: [(&str, usize); 19] = [
    ("NAME", 10),
    ("STATE", 6),
    ("CPU(sec)", 10),
    ("CPU(%)", 6),
    ("MEM(k)", 10),
    ("MEM(%)", 6),
    ("MAXMEM(k)", 10),
    ("MAXMEM(%)", 9),
    ("VCPUS", 5),
    ("NETS", 4),
    ("NETTX(k)", 8),
    ("NETRX(k)", 8),
    ("VBDS", 4),
    ("VBD_OO", 8),
    ("VBD_RD", 8),
    ("VBD_WR", 8),
    ("VBD_RSECT", 10),
    ("VBD_WSECT", 10),
    ("SSID", 4),
];

/// What is shown besides the table.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the options are independent")]
pub struct Show {
    /// Whole names.
    pub full_name: bool,
    /// Cards.
    pub networks: bool,
    /// Disks.
    pub vbds: bool,
    /// vCPUs.
    pub vcpus: bool,
    /// The header before each domain.
    pub repeat_header: bool,
    /// dom0 first.
    pub dom0_first: bool,
}

/// Gives one block: a header, and the domains ordered by name.
pub fn text(sample: &Sample, show: Show) -> String {
    let mut domains: Vec<&Usage> = sample.domains.iter().collect();
    domains.sort_by_key(|usage| (show.dom0_first && usage.domid != 0, usage.name.as_str()));
    let mut text = String::new();
    for (index, usage) in domains.into_iter().enumerate() {
        if index == 0 || show.repeat_header {
            text.push_str(&header());
        }
        line(&mut text, &cells(usage, sample.total_bytes, show.full_name));
        below(&mut text, usage, show);
    }
    text
}

fn header() -> String {
    let mut text = String::new();
    line(&mut text, &COLUMNS.map(|(name, _)| name.to_owned()));
    text
}

fn line(text: &mut String, cells: &[String; 19]) {
    for (index, (cell, (_, width))) in cells.iter().zip(COLUMNS).enumerate() {
        let gap = if index == 0 { "" } else { " " };
        write!(text, "{gap}{cell:>width$}").expect("a String takes all text");
    }
    text.push('\n');
}

/// Gives a domain's cells, not yet aligned.
pub fn cells(usage: &Usage, total_bytes: u64, full_name: bool) -> [String; 19] {
    let name = if full_name {
        usage.name.clone()
    } else {
        usage.name.chars().take(10).collect()
    };
    let kib = |bytes: u64| (bytes / 1024).to_string();
    let sum = |count: &dyn Fn(&super::Disk) -> u64| {
        usage.disks.iter().map(count).sum::<u64>().to_string()
    };
    let max = usage.max_memory_bytes;
    [
        name,
        usage.state.letters(),
        (usage.cpu_ns / 1_000_000_000).to_string(),
        format!("{:.1}", usage.cpu_percent),
        kib(usage.memory_bytes),
        percent(usage.memory_bytes, total_bytes),
        max.map_or_else(|| "no limit".to_owned(), kib),
        max.map_or_else(|| "n/a".to_owned(), |max| percent(max, total_bytes)),
        usage.online_vcpus.to_string(),
        usage.networks.len().to_string(),
        kib(usage.networks.iter().map(|network| network.tx.bytes).sum()),
        kib(usage.networks.iter().map(|network| network.rx.bytes).sum()),
        usage.disks.len().to_string(),
        sum(&|disk| disk.out_of_requests),
        sum(&|disk| disk.reads),
        sum(&|disk| disk.writes),
        sum(&|disk| disk.sectors_read),
        sum(&|disk| disk.sectors_written),
        usage.ssid.to_string(),
    ]
}

fn percent(part: u64, whole: u64) -> String {
    #[expect(
        clippy::cast_precision_loss,
        reason = "one decimal of percent is shown"
    )]
    let percent = if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64 * 100.0
    };
    format!("{percent:.1}")
}

fn below(text: &mut String, usage: &Usage, show: Show) {
    let mut put =
        |part: std::fmt::Arguments<'_>| text.write_fmt(part).expect("a String takes all text");
    if show.vcpus {
        put(format_args!("VCPUs(sec): "));
        let online = usage
            .vcpu_ns
            .iter()
            .enumerate()
            .filter_map(|(vcpu, ns)| Some((vcpu, (*ns)?)));
        for (vcpu, ns) in online {
            let wrap = if vcpu != 0 && vcpu % 5 == 0 {
                "\n        "
            } else {
                ""
            };
            put(format_args!(
                "{wrap} {vcpu:>2}: {:>10}s",
                ns / 1_000_000_000
            ));
        }
        put(format_args!("\n"));
    }
    for (index, network) in usage.networks.iter().enumerate().filter(|_| show.networks) {
        let mut direction = |name: &str, traffic: &super::Traffic, end: &str| {
            put(format_args!(
                "{name} {:>8}bytes {:>8}pkts {:>8}err {:>8}drop{end}",
                traffic.bytes, traffic.packets, traffic.errors, traffic.dropped
            ));
        };
        direction(&format!("Net{index} RX:"), &network.rx, "  ");
        direction("TX:", &network.tx, "\n");
    }
    for disk in usage.disks.iter().filter(|_| show.vbds) {
        put(format_args!(
            "VBD BlkBack {:>4} [{:>2x}:{:>2x}]  OO: {:>8}   RD: {:>8}   WR: {:>8}   RSECT: {:>10}   WSECT: {:>10}\n",
            disk.device,
            disk.device >> 8,
            disk.device & 0xff,
            disk.out_of_requests,
            disk.reads,
            disk.writes,
            disk.sectors_read,
            disk.sectors_written,
        ));
    }
}
