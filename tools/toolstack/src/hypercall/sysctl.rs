//! sysctl: what is asked of the host.

use std::mem::offset_of;

use guest_abi::Errno;
use guest_abi::domctl::{XenCpuidLeaf, XenDomctlGetdomaininfo, XenMsrEntry};
use guest_abi::sysctl::*;
use guest_abi::xen::{__HYPERVISOR_sysctl, XenctlBitmap};
use xendev::Handle;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{CallResult, CpuPolicy, Hyper, HypercallError, union_into, union_of};

/// Offset of a sysctl's body.
const BODY: usize = offset_of!(XenSysctl, u);

/// Domains asked about in one call.
const DOMAINS_AT_ONCE: usize = 256;

/// A policy of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPolicy {
    /// What the CPU says.
    Raw = 0,
    /// What the hypervisor uses.
    Host = 1,
    /// All that an HVM or PVH domain may have.
    HvmMax = 3,
    /// What one has that asks for nothing.
    HvmDefault = 5,
}

/// Cores, sockets, nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// By CPU; all ones where it is offline.
    pub cpus: Vec<XenSysctlCputopo>,
    /// By node: memory.
    pub nodes: Vec<XenSysctlMeminfo>,
    /// By node and node: distance, 10 is local.
    pub distances: Vec<u32>,
}

/// A CPU pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuPoolInfo {
    /// Its number.
    pub id: u32,
    /// Its scheduler, `XEN_SCHEDULER_*`.
    pub scheduler: u32,
    /// Domains in it.
    pub domains: u32,
    /// Its CPUs, bit by bit.
    pub cpus: Vec<u8>,
}

impl Hyper {
    /// One sysctl; handles are offsets in the body.
    fn sysctl<T: IntoBytes + FromBytes + Immutable>(
        &self,
        cmd: u32,
        body: &mut T,
        handles: &mut [Handle<'_>],
    ) -> Result<(), Errno> {
        let mut op = XenSysctl {
            cmd,
            interface_version: XEN_SYSCTL_INTERFACE_VERSION,
            u: union_of(body.as_bytes()),
        };
        self.call_in_envelope(__HYPERVISOR_sysctl, op.as_mut_bytes(), (BODY, handles))?;
        union_into(&op.u, body.as_mut_bytes());
        Ok(())
    }

    /// Describes the host.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn physinfo(&self) -> CallResult<XenSysctlPhysinfo> {
        let mut body = XenSysctlPhysinfo::default();
        self.sysctl(XEN_SYSCTL_physinfo, &mut body, &mut [])
            .map_err(|errno| HypercallError::new("sysctl physinfo", "", errno))?;
        Ok(body)
    }

    /// Names the scheduler, `XEN_SCHEDULER_*`.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn scheduler(&self) -> CallResult<u32> {
        let mut body = XenSysctlSchedId::default();
        self.sysctl(XEN_SYSCTL_sched_id, &mut body, &mut [])
            .map_err(|errno| HypercallError::new("sysctl sched_id", "", errno))?;
        Ok(body.sched_id)
    }

    /// Describes all domains, in ascending order.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn domain_infos(&self) -> CallResult<Vec<XenDomctlGetdomaininfo>> {
        let mut all = Vec::new();
        loop {
            let first = all
                .last()
                .map_or(0, |last: &XenDomctlGetdomaininfo| last.domain + 1);
            let mut part = vec![XenDomctlGetdomaininfo::default(); DOMAINS_AT_ONCE];
            let mut body = XenSysctlGetdomaininfolist {
                first_domain: first,
                max_domains: u32::try_from(part.len()).unwrap_or(0),
                ..Default::default()
            };
            let data = part.as_mut_slice().as_mut_bytes();
            let mut handles = [Handle {
                at: offset_of!(XenSysctlGetdomaininfolist, buffer),
                data,
            }];
            self.sysctl(XEN_SYSCTL_getdomaininfolist, &mut body, &mut handles)
                .map_err(|errno| {
                    HypercallError::new(
                        "sysctl getdomaininfolist",
                        format!("from domain {first}"),
                        errno,
                    )
                })?;
            part.truncate(body.num_domains as usize);
            let is_last = part.len() < DOMAINS_AT_ONCE;
            all.append(&mut part);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Reads the hypervisor's log from `index` on (0 is the oldest there is); returns the text and where it ended.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn read_console(&self, index: u32, clear: bool) -> CallResult<(Vec<u8>, u32)> {
        let mut log = Vec::new();
        let (mut next, mut incremental) = (index, index != 0);
        loop {
            let mut part = vec![0; 16 << 10];
            let mut body = XenSysctlReadconsole {
                clear: clear.into(),
                incremental: incremental.into(),
                index: next,
                count: u32::try_from(part.len()).unwrap_or(0),
                ..Default::default()
            };
            let mut handles = [Handle {
                at: offset_of!(XenSysctlReadconsole, buffer),
                data: &mut part,
            }];
            self.sysctl(XEN_SYSCTL_readconsole, &mut body, &mut handles)
                .map_err(|errno| {
                    HypercallError::new("sysctl readconsole", format!("index {next}"), errno)
                })?;
            let got = part.get(..body.count as usize).unwrap_or_default();
            log.extend_from_slice(got);
            let is_last = got.len() < part.len();
            (next, incremental) = (body.index, true);
            if is_last {
                return Ok((log, next));
            }
        }
    }

    /// Presses debug keys.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn debug_keys(&self, keys: &str) -> CallResult<()> {
        let mut bytes = keys.as_bytes().to_vec();
        let mut body = XenSysctlDebugKeys {
            nr_keys: u32::try_from(bytes.len()).unwrap_or(0),
            ..Default::default()
        };
        let mut handles = [Handle {
            at: offset_of!(XenSysctlDebugKeys, keys),
            data: &mut bytes,
        }];
        self.sysctl(XEN_SYSCTL_debug_keys, &mut body, &mut handles)
            .map_err(|errno| HypercallError::new("sysctl debug_keys", keys, errno))
    }

    /// Describes CPUs and nodes.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn topology(&self) -> CallResult<Topology> {
        let cpus_refused = |errno| HypercallError::new("sysctl cputopoinfo", "", errno);
        let mut asked = XenSysctlCputopoinfo::default();
        self.sysctl(XEN_SYSCTL_cputopoinfo, &mut asked, &mut [])
            .map_err(cpus_refused)?;
        let mut cpus = vec![XenSysctlCputopo::default(); asked.num_cpus as usize];
        let data = cpus.as_mut_slice().as_mut_bytes();
        let mut handles = [Handle {
            at: offset_of!(XenSysctlCputopoinfo, cputopo),
            data,
        }];
        self.sysctl(XEN_SYSCTL_cputopoinfo, &mut asked, &mut handles)
            .map_err(cpus_refused)?;
        cpus.truncate(asked.num_cpus as usize);
        let (nodes, distances) = self
            .numa()
            .map_err(|errno| HypercallError::new("sysctl numainfo", "", errno))?;
        Ok(Topology {
            cpus,
            nodes,
            distances,
        })
    }

    fn numa(&self) -> Result<(Vec<XenSysctlMeminfo>, Vec<u32>), Errno> {
        let mut asked = XenSysctlNumainfo::default();
        self.sysctl(XEN_SYSCTL_numainfo, &mut asked, &mut [])?;
        let count = asked.num_nodes as usize;
        let mut nodes = vec![XenSysctlMeminfo::default(); count];
        let mut distances = vec![0u32; count * count];
        let mut handles = [
            Handle {
                at: offset_of!(XenSysctlNumainfo, meminfo),
                data: nodes.as_mut_slice().as_mut_bytes(),
            },
            Handle {
                at: offset_of!(XenSysctlNumainfo, distance),
                data: distances.as_mut_slice().as_mut_bytes(),
            },
        ];
        self.sysctl(XEN_SYSCTL_numainfo, &mut asked, &mut handles)?;
        Ok((nodes, distances))
    }

    /// Describes the first CPU pool whose number is at least `id`; `None` behind the last.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn cpu_pool(&self, id: u32, nr_cpus: u32) -> CallResult<Option<CpuPoolInfo>> {
        let mut cpus = vec![0; nr_cpus.div_ceil(8).max(1) as usize];
        let bits = u32::try_from(cpus.len() * 8).unwrap_or(0);
        let mut body = XenSysctlCpupoolOp {
            op: XEN_SYSCTL_CPUPOOL_OP_INFO,
            cpupool_id: id,
            cpumap: XenctlBitmap {
                nr_bits: bits,
                ..Default::default()
            },
            ..Default::default()
        };
        let mut handles = [Handle {
            at: offset_of!(XenSysctlCpupoolOp, cpumap),
            data: &mut cpus,
        }];
        match self.sysctl(XEN_SYSCTL_cpupool_op, &mut body, &mut handles) {
            Ok(()) => Ok(Some(CpuPoolInfo {
                id: body.cpupool_id,
                scheduler: body.sched_id,
                domains: body.n_dom,
                cpus,
            })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(HypercallError::new(
                "sysctl cpupool_op info",
                format!("pool {id}"),
                errno,
            )),
        }
    }

    /// Reads one of the host's policies.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn host_policy(&self, which: HostPolicy) -> CallResult<CpuPolicy> {
        let refused =
            |errno| HypercallError::new("sysctl get_cpu_policy", format!("{which:?}"), errno);
        let mut body = XenSysctlCpuPolicy {
            index: which as u32,
            ..Default::default()
        };
        self.sysctl(XEN_SYSCTL_get_cpu_policy, &mut body, &mut [])
            .map_err(refused)?;
        let mut policy = CpuPolicy {
            leaves: vec![XenCpuidLeaf::default(); body.nr_leaves as usize],
            msrs: vec![XenMsrEntry::default(); body.nr_msrs as usize],
        };
        let mut handles = [
            Handle {
                at: offset_of!(XenSysctlCpuPolicy, leaves),
                data: policy.leaves.as_mut_slice().as_mut_bytes(),
            },
            Handle {
                at: offset_of!(XenSysctlCpuPolicy, msrs),
                data: policy.msrs.as_mut_slice().as_mut_bytes(),
            },
        ];
        self.sysctl(XEN_SYSCTL_get_cpu_policy, &mut body, &mut handles)
            .map_err(refused)?;
        policy.leaves.truncate(body.nr_leaves as usize);
        policy.msrs.truncate(body.nr_msrs as usize);
        Ok(policy)
    }

    /// Reads credit2's rate limit of a pool, in µs.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn sched_ratelimit(&self, pool: u32, scheduler: u32) -> CallResult<u32> {
        let getinfo = ("sysctl scheduler_op getinfo", XEN_SYSCTL_SCHEDOP_getinfo);
        self.sched_param(getinfo, pool, scheduler, 0)
    }

    /// Sets it; 0 is none.
    ///
    /// # Errors
    /// The hypervisor's: EINVAL for one that is neither 0 nor 100 to 500000.
    pub fn set_sched_ratelimit(&self, pool: u32, scheduler: u32, us: u32) -> CallResult<()> {
        let putinfo = ("sysctl scheduler_op putinfo", XEN_SYSCTL_SCHEDOP_putinfo);
        self.sched_param(putinfo, pool, scheduler, us).map(|_| ())
    }

    fn sched_param(
        &self,
        (name, cmd): (&'static str, u32),
        pool: u32,
        scheduler: u32,
        us: u32,
    ) -> CallResult<u32> {
        let mut body = XenSysctlSchedulerOp {
            cpupool_id: pool,
            sched_id: scheduler,
            cmd,
            u: [us, 0, 0, 0],
            ..Default::default()
        };
        let failed = |errno| HypercallError::new(name, format!("pool {pool}"), errno);
        self.sysctl(XEN_SYSCTL_scheduler_op, &mut body, &mut [])
            .map_err(failed)?;
        Ok(body.u[0])
    }
}
