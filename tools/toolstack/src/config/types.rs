//! The values of a domain's configuration, checked: what does not fit a PVH domain cannot be written here.
//!
//! They are also what the toolstack keeps of a running domain (as JSON, by serde), so that a reboot builds the same
//! domain again, with its UUID and its MAC addresses.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::CpuList;

/// Describes one PVH domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainConfig {
    /// Unique among the domains; never empty, never only digits.
    pub name: String,
    /// The domain's handle; random when the file names none.
    pub uuid: Uuid,
    /// bzImage or ELF in dom0's file system.
    #[serde(with = "super::path")]
    pub kernel: PathBuf,
    /// initrd.
    #[serde(with = "super::path::optional")]
    pub ramdisk: Option<PathBuf>,
    /// Kernel's command line: `cmdline`, or `root` and `extra` together.
    pub cmdline: String,
    /// RAM at the start, in KiB.
    pub memory_kib: u64,
    /// RAM that it may ever have, in KiB; at least `memory_kib`.
    pub max_memory_kib: u64,
    /// vCPUs online at the start, from 0 up; 1 to `max_vcpus`.
    pub vcpus: u32,
    /// vCPUs that it may ever have.
    pub max_vcpus: u32,
    /// Pinning: empty, one list for all vCPUs, or one a vCPU.
    pub hard_affinity: Vec<CpuList>,
    /// The same for the CPUs they had better run on.
    pub soft_affinity: Vec<CpuList>,
    /// Changes of the CPUID policy, in order.
    pub cpuid: Vec<CpuidRule>,
    /// What follows when it ends.
    pub actions: ShutdownActions,
    /// How its TSC behaves.
    pub tsc_mode: TscMode,
    /// Offset of its wall clock.
    pub time_offset: TimeOffset,
    /// Frames of its grant table; the host's default if absent.
    pub max_grant_frames: Option<u32>,
    /// Frames that track its mappings of others' grants; the host's default if absent.
    pub max_maptrack_frames: Option<u32>,
    /// Highest event port; 1023 if absent.
    pub max_event_channels: Option<u32>,
    /// Claim the memory before building, so that creations never race.
    pub claim: bool,
    /// Unknown MSRs read as 0.
    pub msr_relaxed: bool,
    /// CPU pool; `Pool-0` if absent.
    pub pool: Option<String>,
    /// Weight and cap.
    pub sched: SchedParams,
    /// Security label, kept and shown only.
    pub seclabel: Option<String>,
    /// Disks in the file's order.
    pub disks: Vec<DiskConfig>,
    /// Network cards in the file's order: index is the devid.
    pub vifs: Vec<VifConfig>,
}

/// What follows when a domain ends, by the way it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownActions {
    /// It powered off.
    pub poweroff: Action,
    /// It asked for a reboot.
    pub reboot: Action,
    /// It crashed.
    pub crash: Action,
    /// Its watchdog fired.
    pub watchdog: Action,
    /// It asked for a soft reset.
    pub soft_reset: Action,
}

impl Default for ShutdownActions {
    /// xl's: power-off, crash and watchdog destroy; reboot restarts.
    fn default() -> Self {
        Self {
            poweroff: Action::Destroy,
            reboot: Action::Restart,
            crash: Action::Destroy,
            watchdog: Action::Destroy,
            soft_reset: Action::SoftReset,
        }
    }
}

/// One of the `on_*` actions (xl.cfg(5), "Event Actions").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Destroy the domain.
    Destroy,
    /// Destroy it and create it anew from the same configuration.
    Restart,
    /// Keep it under another name, and create a new one.
    RestartRename,
    /// Keep it for a look.
    Preserve,
    /// Write a core dump, then destroy.
    CoredumpDestroy,
    /// Write a core dump, then restart.
    CoredumpRestart,
    /// Reset it in place.
    SoftReset,
}

/// Why a domain may not be called so; `None` where it may.
///
/// A name is also what verbs find it by, and what xenstore's paths and texts of a line each hold.
pub fn unusable_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("the name is empty")
    } else if name.bytes().all(|c| c.is_ascii_digit()) {
        Some("a name of digits alone would be taken for a domain id")
    } else if name.contains('/') || name.chars().any(char::is_control) {
        Some("a name has no / and no control characters")
    } else if name.len() > 255 {
        Some("a name has at most 255 bytes")
    } else if Uuid::try_parse(name).is_ok() {
        Some("a name that is a UUID would be taken for that domain's")
    } else if name == "(null)" {
        Some("(null) is what a domain without a name is shown as")
    } else {
        None
    }
}

impl Action {
    /// All of them with libxl's names.
    pub const NAMES: [(&'static str, Action); 7] = [
        ("destroy", Action::Destroy),
        ("restart", Action::Restart),
        ("restart_rename", Action::RestartRename),
        ("preserve", Action::Preserve),
        ("coredump_destroy", Action::CoredumpDestroy),
        ("coredump_restart", Action::CoredumpRestart),
        ("soft_reset", Action::SoftReset),
    ];

    /// xl's spelling in a configuration.
    pub fn spelling(self) -> String {
        match self {
            Self::RestartRename => "rename-restart".to_owned(),
            other => other.name().replace('_', "-"),
        }
    }

    /// Reads a file's spelling, where `-` may stand for `_`.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.replace('-', "_");
        Self::NAMES
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, a)| *a)
    }

    /// libxl's name.
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, a)| *a == self)
            .map_or("", |(n, _)| n)
    }
}

/// How a domain's TSC behaves (`XEN_DOMCTL_settscinfo`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TscMode {
    /// Native where safe.
    #[default]
    Default,
    /// Every read emulated.
    AlwaysEmulate,
    /// Never emulated.
    Native,
    /// Never emulated, and told to the guest's user programs.
    NativeParavirt,
}

impl TscMode {
    /// All of them with libxl's names, by the hypercall's number.
    pub const NAMES: [(&'static str, TscMode); 4] = [
        ("default", TscMode::Default),
        ("always_emulate", TscMode::AlwaysEmulate),
        ("native", TscMode::Native),
        ("native_paravirt", TscMode::NativeParavirt),
    ];

    /// Gives the number that the hypercall takes.
    pub fn number(self) -> u32 {
        match self {
            TscMode::Default => 0,
            TscMode::AlwaysEmulate => 1,
            TscMode::Native => 2,
            TscMode::NativeParavirt => 3,
        }
    }

    /// libxl's name.
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, m)| *m == self)
            .map_or("", |(n, _)| n)
    }
}

/// Where a domain's wall clock starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeOffset {
    /// dom0's local time instead of UTC.
    pub localtime: bool,
    /// Seconds added.
    pub seconds: i32,
}

/// Scheduling parameters; the scheduler's default where absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedParams {
    /// Share, 1 to 65535; 256 is usual.
    pub weight: Option<u16>,
    /// Limit in hundredths of a CPU; 0 is none.
    pub cap: Option<u16>,
}

/// One change of the CPUID policy: bits of one register of one leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidRule {
    /// EAX of the query.
    pub leaf: u32,
    /// ECX of the query, where the leaf has subleaves.
    pub subleaf: Option<u32>,
    /// 0 to 3: EAX, EBX, ECX, EDX of the answer.
    pub register: usize,
    /// 32 characters, bit 31 first: `1` `0` force, `x` takes the default, `k` the host's value kept over migration, `s`
    /// like `k` now.
    pub bits: String,
}

impl CpuidRule {
    /// Applies the rule to a register: `default` is the policy's value, `host` the CPU's.
    pub fn apply(&self, default: u32, host: u32) -> u32 {
        self.bits
            .bytes()
            .zip((0..32u32).rev())
            .fold(0, |value, (choice, bit)| {
                let from = |word: u32| word & (1 << bit);
                value
                    | match choice {
                        b'1' => 1 << bit,
                        b'0' => 0,
                        b'k' | b's' => from(host),
                        _ => from(default),
                    }
            })
    }
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// Block device or file in the backend domain, or what the script takes; empty for an empty drive.
    #[serde(with = "super::path")]
    pub target: PathBuf,
    /// Who was named to serve it.
    pub source: DiskSource,
    /// What is in it.
    pub format: DiskFormat,
    /// Name in the guest: `xvda`, `sda1`, `hdc`, `d0p1`…
    pub vdev: String,
    /// The guest may write.
    pub writable: bool,
    /// Other domains may have it writable too (`w!`).
    pub shared: bool,
    /// A drive whose medium may change.
    pub cdrom: bool,
    /// Reads and writes go past dom0's page cache.
    pub direct_io_safe: bool,
    /// Whether the guest may discard; the backend's choice if absent.
    pub discard: Option<bool>,
    /// Hotplug script, run in place of what is done in process.
    pub script: Option<String>,
    /// Backend domain, name or id; dom0 if absent.
    pub backend: Option<String>,
}

/// Who was named to serve a disk (`backendtype=`). Raw bytes are blkback's to serve whoever it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskSource {
    /// Nobody.
    #[default]
    Auto,
    /// blkback.
    Phy,
    /// A device model.
    Qdisk,
    /// blktap.
    Tap,
}

/// What a disk holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// The bytes themselves.
    #[default]
    Raw,
    /// Nothing: an empty drive.
    Empty,
}

/// One network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VifConfig {
    /// Its address; chosen at creation, and kept from then on, if absent.
    pub mac: Option<Mac>,
    /// Bridge in the backend domain; the host's default if absent.
    pub bridge: Option<String>,
    /// Addresses that the guest will use, for the backend's information.
    pub ip: Option<String>,
    /// Hotplug script, run in place of what is done in process.
    pub script: Option<String>,
    /// Name of the backend's interface; `vifDOMID.DEVID` if absent.
    pub vifname: Option<String>,
    /// Backend domain, name or id; dom0 if absent.
    pub backend: Option<String>,
    /// Limit of what the guest sends.
    pub rate: Option<Rate>,
    /// Largest packet.
    pub mtu: Option<u32>,
    /// Network that a driver domain should route for.
    pub gatewaydev: Option<String>,
    /// False: the frontend must not trust the backend.
    pub untrusted: bool,
}

/// A limit of traffic: so many bytes each interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes an interval.
    pub bytes_per_interval: u64,
    /// Interval in microseconds.
    pub interval_us: u32,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Picks an address at random within Xen's range, 00:16:3e:00:00:00 to 00:16:3e:7f:ff:ff.
    pub fn random() -> Self {
        let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
        Self([0x00, 0x16, 0x3e, a & 0x7f, b, c])
    }

    /// Tells whether it is a group's address, which no card may have.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!("\"{text}\" is no MAC address: six pairs of hex digits, as 00:16:3e:12:34:56")
        };
        let mut mac = [0u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut mac {
            let part = parts
                .next()
                .filter(|p| matches!(p.len(), 1 | 2))
                .ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self(mac))
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_read_in_either_form_and_written_in_one() {
        assert_eq!(
            "00:16:3E:1:2:ff".parse::<Mac>().unwrap().to_string(),
            "00:16:3e:01:02:ff"
        );
        assert_eq!(
            "00-16-3e-01-02-ff".parse::<Mac>().unwrap().0,
            [0, 0x16, 0x3e, 1, 2, 0xff]
        );
        for bad in [
            "",
            "00:16:3e:01:02",
            "00:16:3e:01:02:03:04",
            "00:16:3e:01:02:gg",
            "000:16:3e:01:02:03",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
        assert!(!Mac::random().is_multicast());
    }

    #[test]
    fn a_cpuid_rule_forces_keeps_or_takes_the_host_bit() {
        let rule = CpuidRule {
            leaf: 1,
            subleaf: None,
            register: 2,
            bits: format!("{}10kx", "x".repeat(28)),
        };
        assert_eq!(rule.apply(0b0101, 0b0010), 0b1011);
    }

    #[test]
    fn actions_and_modes_have_names_both_ways() {
        assert_eq!(Action::from_name("rename-restart"), None);
        assert_eq!(
            Action::from_name("coredump-destroy"),
            Some(Action::CoredumpDestroy)
        );
        assert_eq!(Action::RestartRename.name(), "restart_rename");
        assert_eq!(
            (TscMode::Native.number(), TscMode::Native.name()),
            (2, "native")
        );
    }
}
