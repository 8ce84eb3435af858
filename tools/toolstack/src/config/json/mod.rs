//! A domain as libxl's JSON, in yajl's layout: what `xl list -l` and `xl create -n` print, and scripts cut up by line.
//!
//! Four blanks an indent, `"key": value`, and an empty object or list as two brackets with an empty line between. libxl
//! leaves out what has its default; which default that is differs by field, so each field says here when it is shown.

mod devices;
mod yajl;

use serde::Serialize;

use self::devices::{Disk, Nic};
use self::yajl::to_yajl;
use super::types::{Action, DiskConfig, DomainConfig, VifConfig};
use super::{CpuList, TscMode};

/// What is known of a domain that exists, besides its configuration.
#[derive(Clone, Copy, Debug)]
pub struct Running<'a> {
    /// Its name now: it may have been renamed.
    pub name: &'a str,
    /// The scheduler's name.
    pub scheduler: &'a str,
    /// Weight now.
    pub weight: u32,
    /// Cap now.
    pub cap: u32,
    /// Memory target now, in KiB.
    pub target_kib: u64,
    /// Most memory now, in KiB.
    pub max_kib: u64,
}

/// One domain of `xl list -l`; dom0 has no configuration.
#[derive(Clone, Copy, Debug)]
pub struct ListedDomain<'a> {
    /// Its id.
    pub domid: u16,
    /// What it was created from.
    pub config: Option<&'a DomainConfig>,
    /// What it is now.
    pub now: Running<'a>,
}

/// Writes one configuration, or the domain made from it; ends in a newline.
pub fn domain_json(config: &DomainConfig, now: Option<Running<'_>>, nr_cpus: u32) -> String {
    to_yajl(&Domain::new(config, now, nr_cpus)) + "\n"
}

/// Writes one disk, as `xl -N block-attach` shows it.
pub fn disk_json(disk: &DiskConfig) -> String {
    to_yajl(&Disk::new(disk, false)) + "\n"
}

/// Writes one network card, as `xl -N network-attach` shows it.
pub fn vif_json(vif: &VifConfig) -> String {
    let mut nic = Nic::new(0, vif, false);
    // it has no number yet
    nic.devid = None;
    to_yajl(&nic) + "\n"
}

/// Writes what `xl list -l` prints: a list of `{"domid": …, "config": …}`, and the empty line that follows xl's.
pub fn list_json(domains: &[ListedDomain<'_>], nr_cpus: u32) -> String {
    let entries: Vec<_> = domains
        .iter()
        .map(|domain| Listed {
            domid: domain.domid,
            config: match domain.config {
                Some(config) => Domain::new(config, Some(domain.now), nr_cpus),
                None => Domain::unconfigured(domain.now),
            },
        })
        .collect();
    to_yajl(&entries) + "\n\n"
}

#[derive(Serialize)]
struct Listed<'a> {
    domid: u16,
    config: Domain<'a>,
}

#[derive(Serialize)]
struct Domain<'a> {
    c_info: CreateInfo<'a>,
    b_info: BuildInfo<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disks: Vec<Disk<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nics: Vec<Nic<'a>>,
    #[serde(skip_serializing_if = "is_destroy")]
    on_poweroff: Action,
    #[serde(skip_serializing_if = "is_destroy")]
    on_reboot: Action,
    #[serde(skip_serializing_if = "is_destroy")]
    on_watchdog: Action,
    #[serde(skip_serializing_if = "is_destroy")]
    on_crash: Action,
    #[serde(skip_serializing_if = "is_destroy")]
    on_soft_reset: Action,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_destroy(action: &Action) -> bool {
    *action == Action::Destroy
}

#[derive(Serialize)]
struct CreateInfo<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssid_label: Option<&'a str>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    domid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_hotplug_scripts: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct BuildInfo<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_vcpus: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    avail_vcpus: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vcpu_hard_affinity: Vec<Vec<u32>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vcpu_soft_affinity: Vec<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tsc_mode: Option<&'static str>,
    max_memkb: u64,
    target_memkb: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    video_memkb: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    rtc_timeoffset: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    localtime: Option<&'static str>,
    #[serde(skip_serializing_if = "Policy::is_empty")]
    cpuid: Policy,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_grant_frames: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_maptrack_frames: Option<u32>,
    sched_params: Sched<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_channels: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ramdisk: Option<String>,
    #[serde(rename = "type.pvh")]
    type_pvh: Empty,
    arch_arm: Empty,
    arch_x86: ArchX86,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Serialize, Default)]
struct Empty {}

#[derive(Serialize, Default)]
struct Sched<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sched: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cap: Option<u32>,
}

impl<'a> Sched<'a> {
    fn of(now: Running<'a>) -> Self {
        Self {
            sched: Some(now.scheduler),
            weight: Some(now.weight),
            cap: Some(now.cap),
        }
    }
}

#[derive(Serialize, Default)]
struct ArchX86 {
    #[serde(skip_serializing_if = "Option::is_none")]
    msr_relaxed: Option<&'static str>,
}

/// Changes of the CPUID policy; libxl has changes of MSRs beside them, for which there is no key.
#[derive(Serialize, Default)]
struct Policy {
    cpuid: Vec<Leaf>,
    msr: [(); 0],
}

impl Policy {
    fn is_empty(&self) -> bool {
        self.cpuid.is_empty()
    }
}

#[derive(Serialize, Default)]
struct Leaf {
    leaf: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    subleaf: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eax: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ebx: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ecx: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edx: Option<String>,
}

impl<'a> Domain<'a> {
    fn new(config: &'a DomainConfig, now: Option<Running<'a>>, nr_cpus: u32) -> Self {
        let running = now.is_some();
        Self {
            c_info: CreateInfo {
                kind: "pvh",
                ssid_label: config.seclabel.as_deref(),
                name: now.map_or(config.name.as_str(), |now| now.name),
                // libxl keeps the "no domain yet" of the time before creation here.
                domid: running.then_some(u32::MAX),
                uuid: Some(config.uuid.to_string()),
                pool_name: config.pool.as_deref(),
                run_hotplug_scripts: Some(defbool(true)),
            },
            b_info: BuildInfo::new(config, now, nr_cpus),
            disks: config
                .disks
                .iter()
                .map(|disk| Disk::new(disk, running))
                .collect(),
            nics: config
                .vifs
                .iter()
                .enumerate()
                .map(|(devid, vif)| Nic::new(devid, vif, running))
                .collect(),
            on_poweroff: config.actions.poweroff,
            on_reboot: config.actions.reboot,
            on_watchdog: config.actions.watchdog,
            on_crash: config.actions.crash,
            on_soft_reset: config.actions.soft_reset,
        }
    }

    fn unconfigured(now: Running<'a>) -> Self {
        Self {
            c_info: CreateInfo {
                kind: "pvh",
                ssid_label: None,
                name: now.name,
                domid: None,
                uuid: None,
                pool_name: None,
                run_hotplug_scripts: None,
            },
            b_info: BuildInfo {
                max_memkb: now.max_kib,
                target_memkb: now.target_kib,
                sched_params: Sched::of(now),
                ..BuildInfo::default()
            },
            disks: Vec::new(),
            nics: Vec::new(),
            on_poweroff: Action::Destroy,
            on_reboot: Action::Destroy,
            on_watchdog: Action::Destroy,
            on_crash: Action::Destroy,
            on_soft_reset: Action::Destroy,
        }
    }
}

impl<'a> BuildInfo<'a> {
    fn new(config: &'a DomainConfig, now: Option<Running<'a>>, nr_cpus: u32) -> Self {
        let mut info = Self {
            max_vcpus: Some(config.max_vcpus),
            avail_vcpus: (0..config.vcpus).collect(),
            vcpu_hard_affinity: affinity(&config.hard_affinity, config.max_vcpus, nr_cpus),
            vcpu_soft_affinity: affinity(&config.soft_affinity, config.max_vcpus, nr_cpus),
            tsc_mode: Some(config.tsc_mode)
                .filter(|mode| *mode != TscMode::Default)
                .map(TscMode::name),
            max_memkb: config.max_memory_kib,
            target_memkb: config.memory_kib,
            // The field is unsigned in libxl, and wraps.
            rtc_timeoffset: config.time_offset.seconds.cast_unsigned(),
            localtime: config.time_offset.localtime.then_some(defbool(true)),
            cpuid: Policy {
                cpuid: cpuid(config),
                msr: [],
            },
            max_grant_frames: config.max_grant_frames,
            max_maptrack_frames: config.max_maptrack_frames,
            sched_params: Sched {
                sched: None,
                weight: config.sched.weight.map(u32::from),
                cap: config.sched.cap.map(u32::from),
            },
            claim_mode: Some(defbool(config.claim)),
            event_channels: config.max_event_channels,
            kernel: Some(config.kernel.to_string_lossy().into_owned()),
            cmdline: Some(config.cmdline.as_str()).filter(|text| !text.is_empty()),
            ramdisk: config
                .ramdisk
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned()),
            arch_x86: ArchX86 {
                msr_relaxed: config.msr_relaxed.then_some(defbool(true)),
            },
            ..Self::default()
        };
        if let Some(now) = now {
            info.video_memkb = Some(0);
            info.max_memkb = now.max_kib;
            info.target_memkb = now.target_kib;
            info.sched_params = Sched::of(now);
            info.arch_x86.msr_relaxed = Some(defbool(config.msr_relaxed));
        }
        info
    }
}

fn affinity(lists: &[CpuList], max_vcpus: u32, nr_cpus: u32) -> Vec<Vec<u32>> {
    let resolve = |list: &CpuList| list.resolve(nr_cpus, |_| 0).into_iter().collect();
    match lists {
        [] => Vec::new(),
        [one] => (0..max_vcpus).map(|_| resolve(one)).collect(),
        many => many.iter().map(resolve).collect(),
    }
}

/// Gathers the rules by leaf, as libxl keeps them; a later rule overrides what it touches.
fn cpuid(config: &DomainConfig) -> Vec<Leaf> {
    let mut leaves: Vec<Leaf> = Vec::new();
    for rule in &config.cpuid {
        let same = |known: &Leaf| (known.leaf, known.subleaf) == (rule.leaf, rule.subleaf);
        let index = leaves.iter().position(same).unwrap_or_else(|| {
            leaves.push(Leaf {
                leaf: rule.leaf,
                subleaf: rule.subleaf,
                ..Leaf::default()
            });
            leaves.len() - 1
        });
        let Some(leaf) = leaves.get_mut(index) else {
            continue;
        };
        let register = match rule.register {
            0 => &mut leaf.eax,
            1 => &mut leaf.ebx,
            2 => &mut leaf.ecx,
            _ => &mut leaf.edx,
        };
        let before = register.take().unwrap_or_else(|| "x".repeat(32));
        let merge = |(new, old)| if new == 'x' { old } else { new };
        *register = Some(rule.bits.chars().zip(before.chars()).map(merge).collect());
    }
    leaves
}

fn defbool(yes: bool) -> &'static str {
    if yes { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use super::super::{HostConfig, parse};
    use super::*;

    const DOMU: &str = "name='stay1'\nuuid='94f18a14-e12c-4e6f-9a1a-9ca8948434ea'\nkernel='/boot/k'\nramdisk='/boot/r'\n\
        extra='console=hvc0 quiet'\nmemory=256\non_reboot='destroy'\n";

    fn domu(extra: &[&str]) -> DomainConfig {
        parse("a", DOMU.as_bytes(), extra, &HostConfig::default())
            .unwrap()
            .config
    }

    fn running<'a>(name: &'a str, target_kib: u64, max_kib: u64) -> Running<'a> {
        Running {
            name,
            scheduler: "credit2",
            weight: 256,
            cap: 0,
            target_kib,
            max_kib,
        }
    }

    #[test]
    fn a_dry_run_prints_what_libxl_prints() {
        assert_eq!(
            domain_json(&domu(&[]), None, 1),
            include_str!("../../../tests/golden/create-n.json")
        );
    }

    #[test]
    fn a_list_prints_what_libxl_prints() {
        let config = domu(&[]);
        let domains = [
            ListedDomain {
                domid: 0,
                config: None,
                now: running("Domain-0", 524_287, 524_288),
            },
            ListedDomain {
                domid: 3,
                config: Some(&config),
                now: running("stay1", 262_144, 262_144),
            },
        ];
        assert_eq!(
            list_json(&domains, 1),
            include_str!("../../../tests/golden/list-l.json")
        );
    }

    #[test]
    fn xendomains_finds_names_and_ids_by_line() {
        let config = domu(&[]);
        let now = running("stay1", 262_144, 262_144);
        let text = list_json(
            &[ListedDomain {
                domid: 3,
                config: Some(&config),
                now,
            }],
            1,
        );
        // grep '^    {$\|"name":\|^        "domid":', and sed 's/^.*"name": "\(.*\)",$/\1/p'
        assert!(text.lines().any(|line| line == "    {"));
        assert!(text.lines().any(|line| line == "        \"domid\": 3,"));
        let name = text.lines().find_map(|line| {
            line.trim_start()
                .strip_prefix("\"name\": \"")?
                .strip_suffix("\",")
        });
        assert_eq!(name, Some("stay1"));
    }

    #[test]
    fn devices_and_rules_have_libxl_names() {
        let config = domu(&[
            "disk=['phy:/dev/a,xvda,w','vdev=hdc,devtype=cdrom,target=/b.iso']",
            "vif=['mac=00:16:3e:01:02:03,bridge=br0,rate=10Mb/s']",
            "cpuid='host,tm=0,acpi=1,sse3=k'",
            "cpus='0-1'",
            "vcpus=2",
            "rtc_timeoffset='-1'",
            "on_crash='preserve'",
        ]);
        let text = domain_json(&config, None, 4);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["disks"][0]["pdev_path"], "/dev/a");
        assert_eq!(
            (
                &value["disks"][0]["readwrite"],
                &value["disks"][1]["is_cdrom"]
            ),
            (&1.into(), &1.into())
        );
        assert_eq!(value["nics"][0]["rate_bytes_per_interval"], 62_500);
        assert_eq!(
            value["b_info"]["cpuid"]["cpuid"][0]["edx"],
            "xx0xxxxxx1xxxxxxxxxxxxxxxxxxxxxx"
        );
        assert_eq!(
            value["b_info"]["vcpu_hard_affinity"][1],
            serde_json::json!([0, 1])
        );
        assert_eq!(value["b_info"]["rtc_timeoffset"], u32::MAX);
        assert_eq!(value["on_crash"], "preserve");
    }
}
