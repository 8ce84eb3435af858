//! Every text, byte for byte: scripts cut them up by column.
//!
//! The files were written from C's format strings by other code than ours; the data below are what they describe.

use guest_abi::domctl::XenDomctlGetvcpuinfo;
use guest_abi::sysctl::*;
use toolstack::devices::{Device, DeviceInfo, Kind, State as Connection};
use toolstack::domain::{DomainInfo, DomainState};
use toolstack::hypercall::{Affinity, Topology, VersionInfo};
use uuid::Uuid;
use xl::top::{Disk, Network, Sample, State, Traffic, Usage, batch};
use xl::verbs::cpupool_list::Pool;
use xl::verbs::list::Columns;
use xl::verbs::sched::Params;
use xl::verbs::uptime::Up;
use xl::verbs::vcpu_list::Vcpu;
use xl::verbs::{block, cpupool_list, info, list, network, sched, uptime, vcpu_list, vm_list};

fn domain(
    domid: u16,
    name: Option<&str>,
    uuid: &str,
    mib: u64,
    vcpus: u32,
    cpu_time_ns: u64,
) -> DomainInfo {
    DomainInfo {
        domid,
        name: name.map(str::to_owned),
        uuid: uuid.parse().expect("a UUID of the tests"),
        state: DomainState::default(),
        tot_pages: mib << 8,
        max_pages: mib << 8,
        outstanding_pages: 0,
        cpu_time_ns,
        online_vcpus: vcpus,
        max_vcpu_id: vcpus - 1,
        cpupool: 0,
        ssidref: 0,
        is_hvm: true,
    }
}

fn domains() -> Vec<DomainInfo> {
    let nil = &Uuid::nil().to_string();
    let mut dom0 = domain(0, Some("Domain-0"), nil, 768, 2, 1_234_560_000_000);
    dom0.state.running = true;
    let mut web = domain(
        3,
        Some("web"),
        "8f6a1c52-90d3-4be7-a3d1-0c5b7e11aa03",
        512,
        4,
        98_760_000_000,
    );
    web.state.blocked = true;
    let name = "db-with-a-name-of-forty-characters-here-x";
    let mut db = domain(
        7,
        Some(name),
        "11111111-2222-4333-8444-555555555507",
        1024,
        1,
        40_000_000,
    );
    db.state.shutdown = Some(3);
    db.outstanding_pages = 128 << 8;
    let mut nameless = domain(9, None, nil, 0, 1, 0);
    nameless.state.paused = true;
    nameless.state.dying = true;
    vec![dom0, web, db, nameless]
}

#[test]
fn list_in_all_its_forms() {
    let text = |columns| list::text(&domains(), columns, |_| "Pool-0".to_owned());
    assert_eq!(text(Columns::default()), include_str!("golden/list.txt"));
    assert_eq!(
        text(Columns {
            verbose: true,
            ..Columns::default()
        }),
        include_str!("golden/list-v.txt")
    );
    assert_eq!(
        text(Columns {
            cpupool: true,
            ..Columns::default()
        }),
        include_str!("golden/list-c.txt")
    );
    assert_eq!(
        text(Columns {
            claim: true,
            ..Columns::default()
        }),
        include_str!("golden/claims.txt")
    );
}

#[test]
fn vm_list_and_uptime() {
    assert_eq!(
        vm_list::text(&domains()),
        include_str!("golden/vm-list.txt")
    );
    let up = |name: &str, domid, seconds| Up {
        name: name.into(),
        domid,
        seconds,
    };
    let ups = [
        up("Domain-0", 0, 3 * 86_400 + 10 * 3600 + 15 * 60 + 30),
        up("web", 3, 86_405),
        up("db", 7, 59 * 60 + 59),
    ];
    assert_eq!(uptime::text(&ups), include_str!("golden/uptime.txt"));
}

#[test]
fn vcpu_list_with_and_without_pinning() {
    let vcpu = |name: &str, domid, vcpu, cpu, flags: [u8; 3], cpu_time, hard: u8, soft: u8| Vcpu {
        name: name.into(),
        domid,
        info: XenDomctlGetvcpuinfo {
            vcpu,
            online: flags[0],
            blocked: flags[1],
            running: flags[2],
            cpu_time,
            cpu,
            ..Default::default()
        },
        affinity: Affinity {
            hard: vec![hard],
            soft: vec![soft],
        },
    };
    let vcpus = [
        vcpu("Domain-0", 0, 0, 2, [1, 0, 1], 134_400_000_000, 0xff, 0xff),
        vcpu("web", 3, 0, 0, [1, 1, 0], 10_800_000_000, 0b1011, 0b1111),
        vcpu("web", 3, 1, 0, [0, 0, 0], 0, 0b0100, 0),
    ];
    assert_eq!(
        vcpu_list::text(&vcpus, 4),
        include_str!("golden/vcpu-list.txt")
    );
}

#[test]
fn schedulers_and_pools() {
    let pool = Pool {
        id: 0,
        name: "Pool-0".into(),
        scheduler: 6,
        domains: 3,
        cpus: vec![0x0f],
    };
    let params = |name: &str, domid, weight, cap| Params {
        name: name.into(),
        domid,
        weight,
        cap,
    };
    let text = sched::pool_line(&pool, Some(1000), 6)
        + &sched::text(&[params("Domain-0", 0, 256, 0), params("web", 3, 1024, 150)]);
    assert_eq!(text, include_str!("golden/sched-credit2.txt"));
    assert_eq!(
        cpupool_list::text(std::slice::from_ref(&pool), 4, false),
        include_str!("golden/cpupool-list.txt")
    );
    assert_eq!(
        cpupool_list::text(&[pool], 4, true),
        include_str!("golden/cpupool-list-c.txt")
    );
}

fn device(
    kind: Kind,
    backend: u16,
    devid: u32,
    state: Connection,
    port: Option<u32>,
    refs: &[u32],
) -> DeviceInfo {
    DeviceInfo {
        device: Device {
            kind,
            frontend: 3,
            backend,
            devid,
        },
        state,
        event_channel: port,
        ring_refs: refs.to_vec(),
        mac: Some(format!("00:16:3e:0a:0b:{:02x}", 12 + devid % 16)),
        name: None,
        target: None,
    }
}

#[test]
fn devices_of_a_domain() {
    let cards = [
        device(
            Kind::Vif,
            0,
            0,
            Connection::Connected,
            Some(17),
            &[768, 769],
        ),
        device(Kind::Vif, 2, 1, Connection::Initialising, None, &[]),
    ];
    assert_eq!(
        network::text(&cards),
        include_str!("golden/network-list.txt")
    );
    let disks = [
        device(Kind::Vbd, 0, 51712, Connection::Connected, Some(16), &[8]),
        device(Kind::Vbd, 0, 51728, Connection::InitWait, None, &[]),
    ];
    assert_eq!(block::text(&disks), include_str!("golden/block-list.txt"));
}

fn host() -> info::Host {
    info::Host {
        uname: ["metal", "6.1.0-test", "#1 SMP a day in May", "x86_64"].map(str::to_owned),
        physical: XenSysctlPhysinfo {
            threads_per_core: 2,
            cores_per_socket: 2,
            nr_cpus: 4,
            max_cpu_id: 3,
            nr_nodes: 1,
            cpu_khz: 2_100_050,
            capabilities: XEN_SYSCTL_PHYSCAP_hvm
                | XEN_SYSCTL_PHYSCAP_hap
                | XEN_SYSCTL_PHYSCAP_gnttab_v1,
            total_pages: 4095 << 8,
            free_pages: 2048 << 8,
            outstanding_pages: 48 << 8,
            hw_cap: [1, 2, 0xabcd, 0, 0, 0, 0, 0xdead_beef],
            ..Default::default()
        },
        free_cpus: 0,
        version: VersionInfo {
            major: 4,
            minor: 17,
            extra: ".7".into(),
            compiler: "rustc 1.95.0".into(),
            compile_by: "builder".into(),
            compile_domain: "example.org".into(),
            compile_date: "Mon May  4 12:00:00 UTC 2026".into(),
            capabilities: "xen-3.0-x86_64 hvm-3.0-x86_64 ".into(),
            changeset: String::new(),
            commandline: "dom0_mem=512M console=com1".into(),
            virt_start: 0xffff_8000_0000_0000,
            pagesize: 4096,
            build_id: vec![1, 2, 255],
        },
        scheduler: "credit2",
    }
}

#[test]
fn info_with_and_without_topology() {
    assert_eq!(info::text(&host(), None), include_str!("golden/info.txt"));
    let cpu = |core, socket, node| XenSysctlCputopo { core, socket, node };
    let topology = Topology {
        cpus: vec![
            cpu(0, 0, 0),
            cpu(0, 0, 0),
            cpu(u32::MAX, u32::MAX, u32::MAX),
            cpu(1, 0, 0),
        ],
        nodes: vec![XenSysctlMeminfo {
            memsize: 4095 << 20,
            memfree: 2048 << 20,
        }],
        distances: vec![10],
    };
    assert_eq!(
        info::text(&host(), Some(&topology)),
        include_str!("golden/info-n.txt")
    );
}

fn sample() -> Sample {
    let traffic = |bytes, packets, dropped| Traffic {
        bytes,
        packets,
        errors: 0,
        dropped,
    };
    let dom0 = Usage {
        name: "Domain-0".into(),
        state: State {
            running: true,
            ..State::default()
        },
        cpu_ns: 1_234_560_000_000,
        cpu_percent: 12.46,
        memory_bytes: 768 << 20,
        online_vcpus: 2,
        vcpu_ns: vec![Some(1_000_000_000_000), Some(234_560_000_000)],
        ..Usage::default()
    };
    let web = Usage {
        name: "web".into(),
        domid: 3,
        state: State {
            blocked: true,
            ..State::default()
        },
        cpu_ns: 98_760_000_000,
        memory_bytes: 512 << 20,
        max_memory_bytes: Some(513 << 20),
        online_vcpus: 4,
        vcpu_ns: vec![Some(98_760_000_000), None, Some(0)],
        networks: vec![
            Network {
                rx: traffic(7200, 70, 1),
                tx: traffic(2048, 20, 0),
            },
            Network {
                rx: Traffic::default(),
                tx: traffic(1024, 10, 0),
            },
        ],
        disks: vec![Disk {
            device: 51712,
            out_of_requests: 1,
            reads: 20,
            writes: 30,
            sectors_read: 400,
            sectors_written: 500,
        }],
        ..Usage::default()
    };
    Sample {
        total_bytes: 4 << 30,
        free_bytes: 2 << 30,
        cpus: 4,
        cpu_khz: 2_100_050,
        domains: vec![web, dom0],
    }
}

#[test]
fn top_in_batch() {
    let show = batch::Show {
        dom0_first: true,
        full_name: true,
        ..batch::Show::default()
    };
    assert_eq!(batch::text(&sample(), show), include_str!("golden/top.txt"));
    let all = batch::Show {
        networks: true,
        vbds: true,
        vcpus: true,
        ..show
    };
    assert_eq!(
        batch::text(&sample(), all),
        include_str!("golden/top-nvx.txt")
    );
    let repeated = batch::text(
        &sample(),
        batch::Show {
            repeat_header: true,
            ..show
        },
    );
    assert_eq!(
        repeated
            .lines()
            .filter(|line| line.contains("SSID"))
            .count(),
        2
    );
}

/// Ganeti 3.0's `_ParseXmList`: after the header exactly six words; states that it knows.
#[test]
fn ganeti_understands_the_list() {
    const RUNNING: [&str; 4] = ["r-----", "rb----", "-b----", "------"];
    let mut living = domains();
    living.truncate(2);
    let mut ended = living[1].clone();
    ended.state = DomainState {
        shutdown: Some(0),
        ..DomainState::default()
    };
    let mut dying = ended.clone();
    dying.state = DomainState {
        dying: true,
        ..DomainState::default()
    };
    let mut paused = living[1].clone();
    paused.state.paused = true;
    living.extend([ended, dying, paused]);
    let text = list::text(&living, Columns::default(), |_| String::new());
    let mut states = Vec::new();
    for line in text.lines().skip(1) {
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words.len(), 6, "{line}");
        for number in &words[1..4] {
            number.parse::<i64>().unwrap();
        }
        words[5].parse::<f64>().unwrap();
        states.push(words[4].replace('p', "-"));
    }
    assert!(RUNNING.contains(&states[0].as_str()) && RUNNING.contains(&states[1].as_str()));
    assert_eq!(
        (states[2].as_str(), states[3].as_str()),
        ("---s--", "-----d")
    );
    assert!(
        RUNNING.contains(&states[4].as_str()),
        "paused: {}",
        states[4]
    );
    // and of info: integers, by the text before and after the colon
    let text = info::text(&host(), None);
    for key in [
        "total_memory",
        "free_memory",
        "nr_cpus",
        "nr_nodes",
        "cores_per_socket",
        "threads_per_core",
        "xen_major",
        "xen_minor",
    ] {
        let value = text.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            (known.trim() == key).then(|| value.trim())
        });
        value.unwrap().parse::<i64>().unwrap();
    }
}

/// Pacemaker's `ocf:heartbeat:Xen`: `awk 'NR==2{print $4,$3}'`, names in the first column, `total_memory` of `info`.
#[test]
fn pacemaker_understands_the_list() {
    let text = list::text(&domains()[1..2], Columns::default(), |_| String::new());
    let words: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((words[3], words[2]), ("4", "512"));
    let text = list::text(&domains(), Columns::default(), |_| String::new());
    let first = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let names: Vec<_> = first
        .filter(|name| !matches!(*name, "Name" | "Domain-0"))
        .collect();
    assert_eq!(names[0], "web");
    let text = info::text(&host(), None);
    let total = text
        .lines()
        .find(|line| line.starts_with("total_memory"))
        .unwrap();
    assert_eq!(total.split(':').nth(1).unwrap().trim(), "4095");
}

/// EVE-OS and OpenNebula take the last block of `xentop -b -i 2 -d 1 -f`, and split it at blanks.
#[test]
fn top_has_nineteen_columns_where_limits_are_known() {
    let mut sample = sample();
    sample
        .domains
        .retain(|usage| usage.max_memory_bytes.is_some());
    let text = batch::text(&sample, batch::Show::default());
    for line in text.lines() {
        assert_eq!(line.split_whitespace().count(), 19, "{line}");
    }
}
