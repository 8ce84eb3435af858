//! xl.conf(5): what the host's administrator sets for all domains, in the grammar of xl.cfg(5).
//!
//! A key that has no effect here is named in a warning, as an unknown one is.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::lookup::Settings;
use super::message::{Message, Source};
use super::{CpuList, DomainConfig, Rejected, VifConfig};
use crate::Autoballoon;

/// What the host's administrator set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Whether dom0 gives memory up for new domains; by how it was started if absent.
    pub autoballoon: Option<Autoballoon>,
    /// The file that xl's lock is on.
    pub lockfile: Option<PathBuf>,
    /// Whether memory is claimed before a domain is built; claimed if absent.
    pub claim: Option<bool>,
    /// Frames of a grant table that the domain does not set.
    pub max_grant_frames: Option<u32>,
    /// Frames of a maptrack table that the domain does not set.
    pub max_maptrack_frames: Option<u32>,
    /// What network cards get that do not say.
    pub vif: VifDefaults,
    /// CPUs that guests may run on: `vm.cpumask` and `vm.hvm.cpumask`, which both count.
    pub cpu_masks: Vec<CpuList>,
}

/// What network cards get that do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VifDefaults {
    /// Bridge in the backend domain.
    pub bridge: Option<String>,
    /// Hotplug script.
    pub script: Option<String>,
    /// Backend domain.
    pub backend: Option<String>,
    /// Network that a driver domain should route for.
    pub gatewaydev: Option<String>,
}

impl VifDefaults {
    /// Gives a card what it does not say itself.
    pub fn apply(&self, vif: &mut VifConfig) {
        for (of_card, default) in [
            (&mut vif.bridge, &self.bridge),
            (&mut vif.script, &self.script),
            (&mut vif.backend, &self.backend),
            (&mut vif.gatewaydev, &self.gatewaydev),
        ] {
            if of_card.is_none() {
                of_card.clone_from(default);
            }
        }
    }
}

/// Says that no CPU is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "vcpu hard affinity map is empty: xl.conf's vm.cpumask and vm.hvm.cpumask leave none of its CPUs"
)]
pub struct NoCpuLeft;

impl HostConfig {
    /// Reads the text of a file called `name`; gives what it sets, and what has no effect.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn parse(name: &str, text: &[u8]) -> Result<(Self, Vec<Message>), Rejected> {
        let source = Source::new(name, text, &[] as &[&str]);
        let settings = Settings::new(&source);
        let config = read(&settings);
        let (errors, warnings) = settings.finish();
        if errors.is_empty() {
            Ok((config, warnings))
        } else {
            Err(Rejected { errors, warnings })
        }
    }

    /// Leaves of the CPUs that a domain's vCPUs may run on those that the host's masks allow.
    ///
    /// # Errors
    /// A vCPU has none left.
    pub fn mask_cpus(
        &self,
        config: &mut DomainConfig,
        nr_cpus: u32,
        node_of: impl Fn(u32) -> u32,
    ) -> Result<(), NoCpuLeft> {
        if self.cpu_masks.is_empty() {
            return Ok(());
        }
        if config.hard_affinity.is_empty() {
            config.hard_affinity.push(CpuList::all());
        }
        for list in &mut config.hard_affinity {
            let allowed = self.allowed(list.resolve(nr_cpus, &node_of), nr_cpus, &node_of);
            *list = CpuList::of(&allowed).ok_or(NoCpuLeft)?;
        }
        Ok(())
    }

    /// Gives those of `cpus` that the host's masks allow.
    pub fn allowed(
        &self,
        cpus: BTreeSet<u32>,
        nr_cpus: u32,
        node_of: impl Fn(u32) -> u32,
    ) -> BTreeSet<u32> {
        self.cpu_masks
            .iter()
            .fold(cpus, |cpus, mask| &cpus & &mask.resolve(nr_cpus, &node_of))
    }
}

/// Keys that are right, and change nothing here: each with the value that asks for nothing, and why.
const WITHOUT_EFFECT: [(&str, &str, &str); 10] = [
    (
        "run_hotplug_scripts",
        "1",
        "xl runs the scripts itself, not udev",
    ),
    ("output_format", "json", "xl writes JSON"),
    ("domid_policy", "xen", "the hypervisor chooses the ids"),
    (
        "blkdev_start",
        "",
        "no disk is attached to dom0 while a domain is made",
    ),
    ("bootloader_restrict", "0", "there is no boot loader"),
    ("remus.default.netbufscript", "", "there is no Remus"),
    ("colo.default.proxyscript", "", "there is no COLO"),
    ("vm.pv.cpumask", "", "there are no PV guests"),
    (
        "sched",
        "",
        "the scheduler is chosen on the hypervisor's command line",
    ),
    ("vncpasswd", "", "there is no VNC"),
];

fn read(settings: &Settings<'_>) -> HostConfig {
    for (key, nothing, why) in WITHOUT_EFFECT {
        if let Some((text, at)) = settings.keep(settings.string(key)).flatten()
            && text != nothing
        {
            settings.warn(&at, format!("{key} has no effect: {why}"));
        }
    }
    grant_version(settings);
    let number = |key| settings.keep(settings.number_u32(key, 1 << 20)).flatten();
    HostConfig {
        autoballoon: autoballoon(settings),
        lockfile: settings.keep(settings.path("lockfile")).flatten(),
        claim: settings.keep(settings.boolean("claim_mode")).flatten(),
        max_grant_frames: number("max_grant_frames"),
        max_maptrack_frames: number("max_maptrack_frames"),
        vif: VifDefaults {
            bridge: renamed(settings, "defaultbridge", "vif.default.bridge"),
            script: renamed(settings, "vifscript", "vif.default.script"),
            backend: settings
                .keep(settings.text("vif.default.backend"))
                .flatten(),
            gatewaydev: settings
                .keep(settings.text("vif.default.gatewaydev"))
                .flatten(),
        },
        cpu_masks: ["vm.cpumask", "vm.hvm.cpumask"]
            .into_iter()
            .filter_map(|key| mask(settings, key))
            .collect(),
    }
}

/// Notes that guests get version 1 of grant tables whatever is asked for.
pub(super) fn grant_version(settings: &Settings<'_>) {
    let version = settings.keep(settings.number_u32("max_grant_version", u32::MAX));
    if let (Some(Some(version)), Some(entry)) = (version, settings.get("max_grant_version"))
        && version != 1
    {
        let text = format!("max_grant_version={version} has no effect: guests get version 1");
        settings.warn(&entry.value.at, text);
    }
}

fn autoballoon(settings: &Settings<'_>) -> Option<Autoballoon> {
    let (text, at) = settings.keep(settings.string("autoballoon")).flatten()?;
    match text {
        "on" | "1" => Some(Autoballoon::On),
        "off" | "0" => Some(Autoballoon::Off),
        "auto" => Some(Autoballoon::Auto),
        _ => {
            let error = settings.error(
                &at,
                format!("autoballoon is on, off or auto, not \"{text}\""),
            );
            settings.keep::<Autoballoon>(Err(error))
        }
    }
}

/// Reads a key that has an older name, which is warned of.
fn renamed(settings: &Settings<'_>, old: &str, new: &str) -> Option<String> {
    let by_old = settings.keep(settings.text(old)).flatten();
    if let (Some(_), Some(entry)) = (&by_old, settings.get(old)) {
        settings.warn(&entry.key_at, format!("{old} is deprecated: say {new}"));
    }
    settings.keep(settings.text(new)).flatten().or(by_old)
}

fn mask(settings: &Settings<'_>, key: &str) -> Option<CpuList> {
    let (text, at) = settings.keep(settings.string(key)).flatten()?;
    settings.keep(
        text.parse()
            .map_err(|e| settings.error(&at, format!("{e}"))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_debian_ships_sets_nothing() {
        let text =
            "## Global XL config file ##\n\n#autoballoon=\"auto\"\n#lockfile=\"/var/lock/xl\"\n";
        let (config, warnings) = HostConfig::parse("xl.conf", text.as_bytes()).unwrap();
        assert_eq!((config, warnings.len()), (HostConfig::default(), 0));
    }

    #[test]
    fn every_key_of_the_manual_works_or_is_warned_of() {
        let text = "autoballoon=\"off\"\nlockfile=\"/run/l\"\nclaim_mode=0\nmax_grant_frames=16\nmax_maptrack_frames=32\n\
            vifscript=\"old\"\nvif.default.script=\"vif-route\"\ndefaultbridge=\"br0\"\nvif.default.backend=\"net\"\n\
            vif.default.gatewaydev=\"eth1\"\nvm.cpumask=\"0-3\"\nvm.hvm.cpumask=\"2-7\"\n";
        let (config, warnings) = HostConfig::parse("xl.conf", text.as_bytes()).unwrap();
        assert_eq!(config.autoballoon, Some(Autoballoon::Off));
        assert_eq!(
            (config.claim, config.lockfile),
            (Some(false), Some("/run/l".into()))
        );
        assert_eq!(
            (config.max_grant_frames, config.max_maptrack_frames),
            (Some(16), Some(32))
        );
        let mut vif = VifConfig {
            bridge: Some("br1".into()),
            ..VifConfig::default()
        };
        config.vif.apply(&mut vif);
        assert_eq!(
            (vif.bridge.as_deref(), vif.script.as_deref()),
            (Some("br1"), Some("vif-route"))
        );
        assert_eq!(
            (vif.backend.as_deref(), vif.gatewaydev.as_deref()),
            (Some("net"), Some("eth1"))
        );
        let texts: Vec<_> = warnings.iter().map(|w| w.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "vifscript is deprecated: say vif.default.script",
                "defaultbridge is deprecated: say vif.default.bridge",
            ]
        );
        for (text, what) in [
            ("run_hotplug_scripts=0", "not udev"),
            ("output_format=\"sxp\"", "xl writes JSON"),
            ("domid_policy=\"random\"", "the hypervisor chooses"),
            ("max_grant_version=2", "version 1"),
            ("vm.pv.cpumask=\"0\"", "no PV guests"),
            ("blkdev_start=\"xvdz\"", "no disk"),
            ("bootloader_restrict=1", "no boot loader"),
            ("remus.default.netbufscript=\"x\"", "no Remus"),
            ("colo.default.proxyscript=\"x\"", "no COLO"),
            ("autobaloon=\"off\"", "did you mean autoballoon?"),
        ] {
            let (_, warnings) = HostConfig::parse("xl.conf", text.as_bytes()).unwrap();
            assert!(warnings[0].text.contains(what), "{text}: {}", warnings[0]);
        }
        let quiet = "run_hotplug_scripts=1\noutput_format=\"json\"\ndomid_policy=\"xen\"\nmax_grant_version=1\n";
        assert_eq!(HostConfig::parse("c", quiet.as_bytes()).unwrap().1, []);
        for wrong in [
            "autoballoon=\"maybe\"",
            "max_grant_frames=\"x\"",
            "vm.cpumask=\"a\"",
            "claim_mode=yes",
        ] {
            assert!(
                HostConfig::parse("xl.conf", wrong.as_bytes()).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn the_hosts_masks_leave_a_domain_fewer_cpus() {
        let text = "vm.cpumask=\"0-5\"\nvm.hvm.cpumask=\"2-7\"\n";
        let (host, _) = HostConfig::parse("xl.conf", text.as_bytes()).unwrap();
        let domain = |cpus: &str| {
            let text = format!("name='a'\nkernel='/k'\nmemory=1\nvcpus=2\n{cpus}");
            let none: &[&str] = &[];
            super::super::parse("a", text.as_bytes(), none, &host)
                .unwrap()
                .config
        };
        let shown = |config: &DomainConfig| -> Vec<String> {
            config
                .hard_affinity
                .iter()
                .map(CpuList::to_string)
                .collect()
        };
        let mut free = domain("");
        host.mask_cpus(&mut free, 8, |_| 0).unwrap();
        assert_eq!(shown(&free), ["2-5"]);
        let mut pinned = domain("cpus=['0-3','5-7']");
        host.mask_cpus(&mut pinned, 8, |_| 0).unwrap();
        assert_eq!(shown(&pinned), ["2-3", "5"]);
        assert_eq!(
            host.mask_cpus(&mut domain("cpus='0-1'"), 8, |_| 0),
            Err(NoCpuLeft)
        );
        let mut unmasked = domain("");
        HostConfig::default()
            .mask_cpus(&mut unmasked, 8, |_| 0)
            .unwrap();
        assert!(unmasked.hard_affinity.is_empty());
    }
}
