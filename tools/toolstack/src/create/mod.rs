//! The steps that make a domain, undone where one fails.
//!
//! Route card, xl create:
//! - tools/xl/src/verbs/create.rs:run, tools/xl/src/config_file.rs:read
//! - tools/toolstack/src/config/mod.rs:parse (text to configuration)
//! - tools/toolstack/src/create/mod.rs:run (a step a line)
//! - tools/toolstack/src/hypercall/domctl.rs:create_domain, tools/xendev/src/privcmd.rs:hypercall
//! - hypervisor/src/hypercall/domctl/mod.rs:serve, hypervisor/src/hypercall/domctl/lifecycle.rs:create
//! - hypervisor/src/domain/create.rs:domain
//!
//! What a step made is undone in reverse when a later one fails, and the error names the step. [`Timings`] says how
//! long each took.

mod context;
mod memory;
mod policy;
mod soft_reset;
mod store;
mod undo;

use std::time::{Duration, Instant};

use guest_abi::domctl::{
    XEN_DOMCTL_CDF_hap, XEN_DOMCTL_CDF_hvm, XEN_DOMINF_dying, XenArchDomainconfig,
    XenDomctlCreatedomain, XenDomctlGetdomaininfo, XenDomctlTscInfo,
};
use guest_abi::hvm::params::{
    HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN,
};
use guest_abi::xen::XEN_X86_EMU_LAPIC;

use crate::config::DomainConfig;
use crate::devices::Force;
use crate::error::During;
use crate::image::layout::{CONSOLE_GFN, STORE_GFN};
use crate::image::{Image, InitrdFile, KernelFile, load};
use crate::{DOM0, Error, Lock, Result, Toolstack};
pub(crate) use store::{libxl_path, unpublish};
use undo::Undo;

/// Highest event port where the configuration names none.
const DEFAULT_MAX_PORT: u32 = 1023;
/// Grant table version of a domain.
const GRANT_VERSION: u32 = 1;

/// How a domain is created, beyond its configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Leave it paused.
    pub paused: bool,
}

/// A domain that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub domid: u16,
    /// The configuration with what was chosen for it: MAC addresses.
    pub config: DomainConfig,
    /// How long each step took.
    pub timings: Timings,
}

/// How long each step took, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timings(pub Vec<(&'static str, Duration)>);

impl Timings {
    /// All steps together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.0.iter().map(|(_, took)| *took).sum()
    }
}

impl Toolstack {
    /// Creates a domain and, unless asked not to, lets it run.
    ///
    /// # Errors
    /// Names the step that failed and why; everything made before is undone.
    pub fn create(&self, held: &Lock, config: &DomainConfig, options: Options) -> Result<Created> {
        self.create_telling(held, config, options, &mut |_| {})
    }

    /// The same; `tell` hears each step when it begins, and how far a long one is.
    ///
    /// # Errors
    /// As for [`Toolstack::create`].
    pub fn create_telling(
        &self,
        held: &Lock,
        config: &DomainConfig,
        options: Options,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Created> {
        let mut plan = Plan {
            ts: self,
            held,
            tell,
            config: config.clone(),
            undo: Undo::default(),
            timings: Timings::default(),
        };
        match plan.run(options) {
            Ok(domid) => Ok(Created {
                domid,
                config: plan.config,
                timings: plan.timings,
            }),
            Err(error) => {
                let again = error.is_lost_store().then(|| self.reconnected());
                // without xenstored the rest is undone all the same
                let over = match &again {
                    Some(Ok(again)) => again,
                    _ => self,
                };
                let failed = plan.undo.roll_back(over);
                let error = match failed.first() {
                    None => error,
                    Some(left) => {
                        error.during(format!("something is left behind ({})", left.chain()))
                    }
                };
                Err(error.during(format!("creating \"{}\"", config.name)))
            }
        }
    }
}

/// Event channels between a domain and dom0's daemons.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) store: u32,
    pub(crate) console: u32,
}

/// A domain in the making.
struct Plan<'a> {
    ts: &'a Toolstack,
    held: &'a Lock,
    tell: &'a mut dyn FnMut(&str),
    config: DomainConfig,
    undo: Undo,
    timings: Timings,
}

impl Plan<'_> {
    /// All steps in order.
    fn run(&mut self, options: Options) -> Result<u16> {
        self.step("checking the name", Self::check)?;
        let kernel = self.step("reading the kernel", |r| {
            Ok(KernelFile::read(&r.config.kernel)?)
        })?;
        let initrd = self.step("reading the initrd", |r| {
            Ok(r.config
                .ramdisk
                .as_deref()
                .map(InitrdFile::read)
                .transpose()?)
        })?;
        let image = self.step("planning the memory", |r| {
            Ok(Image::build(&r.config, &kernel, initrd.as_ref())?)
        })?;
        self.step("making room for it", |r| {
            r.ts.make_room(memory::needed(&r.config, image.layout.pages()), r.tell)
        })?;
        let domid = self.step("making the domain", Self::make_domain)?;
        self.step("making vCPUs", |r| r.make_vcpus(domid))?;
        self.step("claiming memory", |r| {
            memory::reserve(&r.ts.hyper, &r.config, domid, &image.layout)
        })?;
        let ports = self.step("making event channels", |r| r.make_ports(domid))?;
        self.step("giving it memory", |r| {
            memory::populate(&r.ts.hyper, domid, &image.layout)
        })?;
        self.step("loading the image", |r| {
            load::load(&r.ts.hyper, domid, &image.pieces)
        })?;
        self.step("setting its CPU policy", |r| {
            policy::apply(&r.ts.hyper, domid, &r.config)
        })?;
        self.step("setting up its first vCPU", |r| {
            context::load(&r.ts.hyper, domid, &r.config, &image)
        })?;
        self.step("setting its parameters", |r| r.set_params(domid, ports))?;
        self.step("publishing it in xenstore", |r| r.publish(domid, ports))?;
        self.step("introducing it to xenstored", |r| r.introduce(domid, ports))?;
        self.step("attaching its disks", |r| r.attach_disks(domid))?;
        self.step("attaching its network cards", |r| r.attach_vifs(domid))?;
        self.step("keeping its configuration", |r| r.keep(domid))?;
        if !options.paused {
            self.step("letting it run", |r| {
                Ok(r.ts.hyper.unpause_domain(domid)?)
            })?;
        }
        Ok(domid)
    }

    fn step<T>(
        &mut self,
        name: &'static str,
        body: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let start = Instant::now();
        (self.tell)(name);
        let result = body(self).during(name);
        self.timings.0.push((name, start.elapsed()));
        result
    }

    fn check(&mut self) -> Result<()> {
        self.ts.check_name(&self.config.name, None)?;
        if let Some(pool) = self
            .config
            .pool
            .as_deref()
            .filter(|pool| !matches!(*pool, "Pool-0" | "0"))
        {
            return Err(Error::Refused(format!(
                "CPU pool \"{pool}\" is not there; there is Pool-0 only"
            )));
        }
        let twin = self.ts.hyper.domain_infos()?;
        // one that is dying may wait for somebody to let its pages go: it is no obstacle
        let is_twin = |raw: &&XenDomctlGetdomaininfo| {
            raw.handle == *self.config.uuid.as_bytes() && raw.flags & XEN_DOMINF_dying == 0
        };
        match twin.iter().find(is_twin) {
            Some(raw) if !self.config.uuid.is_nil() => Err(Error::Refused(format!(
                "domain {} has the UUID {} already",
                raw.domain, self.config.uuid
            ))),
            _ => Ok(()),
        }
    }

    fn make_domain(&mut self) -> Result<u16> {
        let config = &self.config;
        let frames = |count: Option<u32>| count.map_or(Ok(-1), i32::try_from);
        let too_many = |_| {
            Error::Refused("the number of grant or maptrack frames is beyond all limits".to_owned())
        };
        let domid = self.ts.hyper.create_domain(&XenDomctlCreatedomain {
            handle: config.uuid.into_bytes(),
            flags: XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap,
            max_vcpus: config.max_vcpus,
            max_evtchn_port: config.max_event_channels.unwrap_or(DEFAULT_MAX_PORT),
            max_grant_frames: frames(config.max_grant_frames).map_err(too_many)?,
            max_maptrack_frames: frames(config.max_maptrack_frames).map_err(too_many)?,
            grant_opts: GRANT_VERSION,
            arch: XenArchDomainconfig {
                emulation_flags: XEN_X86_EMU_LAPIC,
                misc_flags: config.msr_relaxed.into(),
            },
            ..Default::default()
        })?;
        self.undo.push("making the domain", move |ts| {
            Ok(ts.hyper.destroy_domain(domid)?)
        });
        Ok(domid)
    }

    fn make_vcpus(&mut self, domid: u16) -> Result<()> {
        let (hyper, config) = (&self.ts.hyper, &self.config);
        hyper.set_max_vcpus(domid, config.max_vcpus)?;
        policy::schedule(hyper, domid, config)?;
        if config.tsc_mode.number() != 0 {
            let info = XenDomctlTscInfo {
                tsc_mode: config.tsc_mode.number(),
                ..Default::default()
            };
            hyper.set_tsc_info(domid, info)?;
        }
        let seconds = policy::clock_offset(config.time_offset);
        if seconds != 0 {
            hyper.set_time_offset(domid, seconds)?;
        }
        Ok(())
    }

    fn make_ports(&mut self, domid: u16) -> Result<Ports> {
        let hyper = &self.ts.hyper;
        Ok(Ports {
            store: hyper.alloc_unbound(domid, DOM0)?,
            console: hyper.alloc_unbound(domid, DOM0)?,
        })
    }

    /// Tells the guest where its rings are, and grants their pages to dom0.
    fn set_params(&mut self, domid: u16, ports: Ports) -> Result<()> {
        self.set_ring_params(domid, ports)?;
        memory::grant_rings(&self.ts.hyper, domid)
    }

    fn set_ring_params(&mut self, domid: u16, ports: Ports) -> Result<()> {
        let hyper = &self.ts.hyper;
        hyper.set_param(domid, HVM_PARAM_STORE_PFN, STORE_GFN)?;
        hyper.set_param(domid, HVM_PARAM_STORE_EVTCHN, ports.store.into())?;
        hyper.set_param(domid, HVM_PARAM_CONSOLE_PFN, CONSOLE_GFN)?;
        Ok(hyper.set_param(domid, HVM_PARAM_CONSOLE_EVTCHN, ports.console.into())?)
    }

    fn publish(&mut self, domid: u16, ports: Ports) -> Result<()> {
        let config = self.config.clone();
        self.undo.push("publishing it in xenstore", move |ts| {
            unpublish(ts, domid, Some(config.uuid))
        });
        store::publish(self.ts, domid, &self.config, ports)
    }

    fn introduce(&mut self, domid: u16, ports: Ports) -> Result<()> {
        self.ts.store.introduce(domid, STORE_GFN, ports.store)?;
        self.undo.push("introducing it to xenstored", move |ts| {
            Ok(ts.store.release(domid)?)
        });
        Ok(())
    }

    fn attach_disks(&mut self, domid: u16) -> Result<()> {
        for disk in self.config.disks.clone() {
            let device = self
                .ts
                .attach_disk(self.held, domid, &disk)
                .during(format!("disk \"{}\"", disk.vdev))?;
            self.undo.push("attaching its disks", move |ts| {
                ts.detach(&device, Force::AtOnce)
            });
        }
        Ok(())
    }

    fn attach_vifs(&mut self, domid: u16) -> Result<()> {
        for devid in 0..self.config.vifs.len() {
            let Some(vif) = self.config.vifs.get_mut(devid) else {
                continue;
            };
            // chosen once, kept over reboots
            vif.mac.get_or_insert_with(crate::config::Mac::random);
            let vif = vif.clone();
            let number = u32::try_from(devid).unwrap_or(u32::MAX);
            let device = self
                .ts
                .attach_vif(domid, number, &vif)
                .during(format!("network card {devid}"))?;
            self.undo.push("attaching its network cards", move |ts| {
                ts.detach(&device, Force::AtOnce)
            });
        }
        Ok(())
    }

    fn keep(&mut self, domid: u16) -> Result<()> {
        let uuid = self.config.uuid;
        self.undo.push("keeping its configuration", move |ts| {
            ts.forget_config(domid, uuid)
        });
        self.ts.keep_config(self.held, domid, &self.config)
    }
}

#[cfg(test)]
mod tests;
