//! domctl: what is done to one domain; its state as records is in `domstate`.

use std::mem::offset_of;

use guest_abi::Errno;
use guest_abi::domctl::*;
use guest_abi::xen::{__HYPERVISOR_domctl, XenctlBitmap};
use xendev::Handle;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{CallResult, Hyper, HypercallError, domain, union_into, union_of};

/// Offset of a domctl's body.
const BODY: usize = offset_of!(XenDomctl, u);

/// Which CPUs, bit by bit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Those it may run on.
    pub hard: Vec<u8>,
    /// Those it had better run on.
    pub soft: Vec<u8>,
}

impl Hyper {
    /// One domctl; handles are offsets in the body. Returns the domid that came back.
    pub(super) fn domctl<T: IntoBytes + FromBytes + Immutable>(
        &self,
        cmd: u32,
        domid: u16,
        body: &mut T,
        handles: &mut [Handle<'_>],
    ) -> Result<u16, Errno> {
        let mut op = XenDomctl {
            cmd,
            interface_version: XEN_DOMCTL_INTERFACE_VERSION,
            domain: domid,
            _pad: [0; 3],
            u: union_of(body.as_bytes()),
        };
        self.call_in_envelope(__HYPERVISOR_domctl, op.as_mut_bytes(), (BODY, handles))?;
        union_into(&op.u, body.as_mut_bytes());
        Ok(op.domain)
    }

    /// A domctl without a body.
    fn plain_domctl(&self, call: &'static str, cmd: u32, domid: u16) -> CallResult<()> {
        self.domctl(cmd, domid, &mut [0u64; 0], &mut [])
            .map(drop)
            .map_err(|errno| HypercallError::new(call, domain(domid), errno))
    }

    /// A domctl whose body only goes in.
    fn set<T: IntoBytes + FromBytes + Immutable>(
        &self,
        call: &'static str,
        cmd: u32,
        domid: u16,
        mut body: T,
        about: impl Fn() -> String,
    ) -> CallResult<()> {
        self.domctl(cmd, domid, &mut body, &mut [])
            .map(drop)
            .map_err(|errno| {
                HypercallError::new(call, format!("domain {domid}, {}", about()), errno)
            })
    }

    /// Makes a domain, paused and without memory; returns its id.
    ///
    /// # Errors
    /// The hypervisor's: EINVAL for a configuration it does not serve, ENOMEM.
    pub fn create_domain(&self, config: &XenDomctlCreatedomain) -> CallResult<u16> {
        let mut body = *config;
        self.domctl(XEN_DOMCTL_createdomain, 0, &mut body, &mut []).map_err(|errno| {
            let about = format!(
                "flags {:#x}, max_vcpus {}, max_evtchn_port {}, max_grant_frames {}, emulation_flags {:#x}",
                config.flags, config.max_vcpus, config.max_evtchn_port, config.max_grant_frames, config.arch.emulation_flags
            );
            HypercallError::new("domctl createdomain", about, errno)
        })
    }

    /// Destroys a domain. It may stay as a zombie until the last of its pages is let go.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn destroy_domain(&self, domid: u16) -> CallResult<()> {
        self.plain_domctl("domctl destroydomain", XEN_DOMCTL_destroydomain, domid)
    }

    /// Pauses a domain.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn pause_domain(&self, domid: u16) -> CallResult<()> {
        self.plain_domctl("domctl pausedomain", XEN_DOMCTL_pausedomain, domid)
    }

    /// Lets a domain run.
    ///
    /// # Errors
    /// The hypervisor's: EINVAL where it was not paused.
    pub fn unpause_domain(&self, domid: u16) -> CallResult<()> {
        self.plain_domctl("domctl unpausedomain", XEN_DOMCTL_unpausedomain, domid)
    }

    /// Lets a paused domain that shut down for a soft reset go on, without its ports and registered places.
    ///
    /// # Errors
    /// The hypervisor's: EINVAL where it has not shut down.
    pub fn soft_reset_domain(&self, domid: u16) -> CallResult<()> {
        self.plain_domctl("domctl soft_reset", XEN_DOMCTL_soft_reset, domid)
    }

    /// Describes a domain.
    ///
    /// # Errors
    /// ESRCH where there is none of that id.
    pub fn domain_info(&self, domid: u16) -> CallResult<XenDomctlGetdomaininfo> {
        let mut body = XenDomctlGetdomaininfo::default();
        let refused = |errno| HypercallError::new("domctl getdomaininfo", domain(domid), errno);
        self.domctl(XEN_DOMCTL_getdomaininfo, domid, &mut body, &mut [])
            .map_err(refused)?;
        // the call describes the next domain where there is none of that id
        if body.domain == domid {
            Ok(body)
        } else {
            Err(refused(Errno::ESRCH))
        }
    }

    /// Sets a domain's limit of memory, in KiB.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn set_max_mem(&self, domid: u16, kib: u64) -> CallResult<()> {
        let body = XenDomctlMaxMem { max_memkb: kib };
        self.set("domctl max_mem", XEN_DOMCTL_max_mem, domid, body, || {
            format!("{kib} KiB")
        })
    }

    /// Makes a domain's vCPUs.
    ///
    /// # Errors
    /// The hypervisor's: EINVAL where the number is not the one at creation.
    pub fn set_max_vcpus(&self, domid: u16, max: u32) -> CallResult<()> {
        let body = XenDomctlMaxVcpus { max };
        self.set(
            "domctl max_vcpus",
            XEN_DOMCTL_max_vcpus,
            domid,
            body,
            || format!("max {max}"),
        )
    }

    /// Describes a vCPU.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn vcpu_info(&self, domid: u16, vcpu: u32) -> CallResult<XenDomctlGetvcpuinfo> {
        let mut body = XenDomctlGetvcpuinfo {
            vcpu,
            ..Default::default()
        };
        self.domctl(XEN_DOMCTL_getvcpuinfo, domid, &mut body, &mut [])
            .map_err(|errno| vcpu_error("domctl getvcpuinfo", domid, vcpu, errno))?;
        Ok(body)
    }

    /// Sets where a vCPU runs; what is `None` stays. Returns the masks in effect.
    ///
    /// # Errors
    /// The hypervisor's: EINVAL for a mask without a CPU of the host.
    pub fn set_vcpu_affinity(
        &self,
        domid: u16,
        vcpu: u32,
        hard: Option<&[u8]>,
        soft: Option<&[u8]>,
    ) -> CallResult<Affinity> {
        let mut flags = 0;
        flags |= if hard.is_some() {
            XEN_VCPUAFFINITY_HARD
        } else {
            0
        };
        flags |= if soft.is_some() {
            XEN_VCPUAFFINITY_SOFT
        } else {
            0
        };
        let mut masks = Affinity {
            hard: hard.unwrap_or_default().to_vec(),
            soft: soft.unwrap_or_default().to_vec(),
        };
        self.vcpu_affinity(XEN_DOMCTL_setvcpuaffinity, domid, vcpu, flags, &mut masks)
            .map_err(|errno| vcpu_error("domctl setvcpuaffinity", domid, vcpu, errno))?;
        Ok(masks)
    }

    /// Reads where a vCPU runs, for a host with CPUs up to `nr_cpus`.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn get_vcpu_affinity(&self, domid: u16, vcpu: u32, nr_cpus: u32) -> CallResult<Affinity> {
        let bytes = vec![0; nr_cpus.div_ceil(8).max(1) as usize];
        let mut masks = Affinity {
            hard: bytes.clone(),
            soft: bytes,
        };
        let flags = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT;
        self.vcpu_affinity(XEN_DOMCTL_getvcpuaffinity, domid, vcpu, flags, &mut masks)
            .map_err(|errno| vcpu_error("domctl getvcpuaffinity", domid, vcpu, errno))?;
        Ok(masks)
    }

    fn vcpu_affinity(
        &self,
        cmd: u32,
        domid: u16,
        vcpu: u32,
        flags: u32,
        masks: &mut Affinity,
    ) -> Result<(), Errno> {
        let bits = |mask: &[u8]| XenctlBitmap {
            nr_bits: u32::try_from(mask.len() * 8).unwrap_or(0),
            ..Default::default()
        };
        let mut body = XenDomctlVcpuaffinity {
            vcpu,
            flags,
            cpumap_hard: bits(&masks.hard),
            cpumap_soft: bits(&masks.soft),
        };
        let mut handles = [
            Handle {
                at: offset_of!(XenDomctlVcpuaffinity, cpumap_hard),
                data: &mut masks.hard,
            },
            Handle {
                at: offset_of!(XenDomctlVcpuaffinity, cpumap_soft),
                data: &mut masks.soft,
            },
        ];
        self.domctl(cmd, domid, &mut body, &mut handles).map(drop)
    }

    /// Reads a domain's weight and cap under `scheduler`.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn get_sched_params(&self, domid: u16, scheduler: u32) -> CallResult<(u16, u16)> {
        let mut body = XenDomctlSchedulerOp {
            sched_id: scheduler,
            cmd: XEN_DOMCTL_SCHEDOP_getinfo,
            u: [0; 4],
        };
        self.domctl(XEN_DOMCTL_scheduler_op, domid, &mut body, &mut [])
            .map_err(|errno| {
                HypercallError::new("domctl scheduler_op getinfo", domain(domid), errno)
            })?;
        let [weight_low, weight_high, cap_low, cap_high] = body.u[0].to_le_bytes();
        Ok((
            u16::from_le_bytes([weight_low, weight_high]),
            u16::from_le_bytes([cap_low, cap_high]),
        ))
    }

    /// Sets a domain's weight and cap under `scheduler`.
    ///
    /// # Errors
    /// The hypervisor's: EINVAL for a weight out of range.
    pub fn set_sched_params(
        &self,
        domid: u16,
        scheduler: u32,
        weight: u16,
        cap: u16,
    ) -> CallResult<()> {
        let word = u32::from(cap) << 16 | u32::from(weight);
        let body = XenDomctlSchedulerOp {
            sched_id: scheduler,
            cmd: XEN_DOMCTL_SCHEDOP_putinfo,
            u: [word, 0, 0, 0],
        };
        self.set(
            "domctl scheduler_op putinfo",
            XEN_DOMCTL_scheduler_op,
            domid,
            body,
            || format!("weight {weight}, cap {cap}"),
        )
    }

    /// Sets a domain's UUID.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn set_handle(&self, domid: u16, handle: [u8; 16]) -> CallResult<()> {
        let body = XenDomctlSetdomainhandle { handle };
        self.set(
            "domctl setdomainhandle",
            XEN_DOMCTL_setdomainhandle,
            domid,
            body,
            String::new,
        )
    }

    /// Shifts a domain's wall clock by seconds.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn set_time_offset(&self, domid: u16, seconds: i64) -> CallResult<()> {
        let body = XenDomctlSettimeoffset {
            time_offset_seconds: seconds,
        };
        self.set(
            "domctl settimeoffset",
            XEN_DOMCTL_settimeoffset,
            domid,
            body,
            || format!("{seconds} s"),
        )
    }

    /// Sends a trigger (`XEN_DOMCTL_SENDTRIGGER_*`) to a vCPU.
    ///
    /// # Errors
    /// The hypervisor's: EOPNOTSUPP or ENOSYS for a button that the domain has not.
    pub fn send_trigger(&self, domid: u16, trigger: u32, vcpu: u32) -> CallResult<()> {
        let body = XenDomctlSendtrigger { trigger, vcpu };
        self.set(
            "domctl sendtrigger",
            XEN_DOMCTL_sendtrigger,
            domid,
            body,
            || format!("trigger {trigger}, vcpu {vcpu}"),
        )
    }

    /// Sets how a domain's TSC behaves.
    ///
    /// # Errors
    /// The hypervisor's: EINVAL for a mode it does not serve.
    pub fn set_tsc_info(&self, domid: u16, info: XenDomctlTscInfo) -> CallResult<()> {
        self.set(
            "domctl settscinfo",
            XEN_DOMCTL_settscinfo,
            domid,
            info,
            || format!("tsc_mode {}, gtsc_khz {}", info.tsc_mode, info.gtsc_khz),
        )
    }

    /// Sets the memory for a domain's page tables, in bytes.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn set_paging_mempool(&self, domid: u16, bytes: u64) -> CallResult<()> {
        let body = XenDomctlPagingMempool { size: bytes };
        self.set(
            "domctl set_paging_mempool_size",
            XEN_DOMCTL_set_paging_mempool_size,
            domid,
            body,
            || format!("{bytes} bytes"),
        )
    }
}

pub(super) fn vcpu_error(
    call: &'static str,
    domid: u16,
    vcpu: u32,
    errno: Errno,
) -> HypercallError {
    HypercallError::new(call, format!("domain {domid}, vcpu {vcpu}"), errno)
}
