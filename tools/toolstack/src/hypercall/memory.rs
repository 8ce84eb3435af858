//! memory_op: a domain's memory from outside.

use std::mem::offset_of;

use guest_abi::Errno;
use guest_abi::memory::*;
use guest_abi::xen::__HYPERVISOR_memory_op;
use xendev::{Arg, Handle};
use zerocopy::IntoBytes;

use super::{CallResult, Hyper, HypercallError, domain};

/// When a guest frame gets its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// At once.
    Now,
    /// When somebody touches it.
    Touched,
}

impl Hyper {
    fn memory_op(
        &self,
        cmd: u32,
        bytes: &mut [u8],
        handles: &mut [Handle<'_>],
    ) -> Result<i64, Errno> {
        let mut again: Vec<Handle<'_>> = handles
            .iter_mut()
            .map(|handle| Handle {
                at: handle.at,
                data: &mut *handle.data,
            })
            .collect();
        let mut args = [
            Arg::Value(cmd.into()),
            Arg::Struct {
                bytes,
                handles: &mut again,
            },
        ];
        self.0.hypercall(__HYPERVISOR_memory_op, &mut args)
    }

    /// Promises `pages` of the host's free memory to a domain, less what it has; 0 takes the promise back.
    ///
    /// # Errors
    /// ENOMEM where so much is not free; EINVAL beyond the domain's limit.
    pub fn claim_pages(&self, domid: u16, pages: u64) -> CallResult<()> {
        let mut claim = XenMemoryReservation {
            nr_extents: pages,
            domid,
            ..Default::default()
        };
        self.memory_op(XENMEM_claim_pages, claim.as_mut_bytes(), &mut [])
            .map(drop)
            .map_err(|errno| {
                HypercallError::new(
                    "memory_op claim_pages",
                    format!("domain {domid}, {pages} pages"),
                    errno,
                )
            })
    }

    /// Sets how many pages a domain is to have, those counted that wait until it touches them first.
    ///
    /// # Errors
    /// ENOMEM where so much is not free; EINVAL beyond the domain's limit.
    pub fn set_pod_target(&self, domid: u16, pages: u64) -> CallResult<()> {
        let mut body = XenPodTarget {
            target_pages: pages,
            domid,
            ..Default::default()
        };
        self.memory_op(XENMEM_set_pod_target, body.as_mut_bytes(), &mut [])
            .map(drop)
            .map_err(|errno| {
                HypercallError::new(
                    "memory_op set_pod_target",
                    format!("domain {domid}, {pages} pages"),
                    errno,
                )
            })
    }

    /// Returns how many of a domain's frames are populated when somebody touches them, and how many pages are set aside
    /// for that.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn pod_target(&self, domid: u16) -> CallResult<XenPodTarget> {
        let mut body = XenPodTarget {
            domid,
            ..Default::default()
        };
        self.memory_op(XENMEM_get_pod_target, body.as_mut_bytes(), &mut [])
            .map(|_| body)
            .map_err(|errno| HypercallError::new("memory_op get_pod_target", domain(domid), errno))
    }

    /// Backs extents of `1 << order` pages that start at `gfns`, now or when they are touched; returns how many extents
    /// were backed, from the front.
    ///
    /// # Errors
    /// The hypervisor's, where not even one was.
    pub fn populate(&self, domid: u16, order: u32, gfns: &[u64], when: When) -> CallResult<usize> {
        let mut list = gfns.to_vec();
        let mut body = XenMemoryReservation {
            nr_extents: gfns.len() as u64,
            extent_order: order,
            mem_flags: match when {
                When::Now => 0,
                When::Touched => XENMEMF_populate_on_demand,
            },
            domid,
            ..Default::default()
        };
        let data = list.as_mut_slice().as_mut_bytes();
        let mut handles = [Handle {
            at: offset_of!(XenMemoryReservation, extent_start),
            data,
        }];
        let done = self
            .memory_op(XENMEM_populate_physmap, body.as_mut_bytes(), &mut handles)
            .map_err(|errno| {
                let about = format!(
                    "domain {domid}, {} extents of order {order} from gfn {:#x}",
                    gfns.len(),
                    gfns.first().unwrap_or(&0)
                );
                HypercallError::new("memory_op populate_physmap", about, errno)
            })?;
        Ok(usize::try_from(done).unwrap_or(0).min(gfns.len()))
    }

    /// Stores the memory map that a domain may ask for.
    ///
    /// # Errors
    /// The hypervisor's: E2BIG or EINVAL for too many entries.
    pub fn set_memory_map(&self, domid: u16, entries: &[E820Entry]) -> CallResult<()> {
        let mut list = entries.to_vec();
        let mut body = XenForeignMemoryMap {
            domid,
            map: XenMemoryMap {
                nr_entries: u32::try_from(list.len()).unwrap_or(u32::MAX),
                ..Default::default()
            },
            ..Default::default()
        };
        let at = offset_of!(XenForeignMemoryMap, map) + offset_of!(XenMemoryMap, buffer);
        let mut handles = [Handle {
            at,
            data: list.as_mut_slice().as_mut_bytes(),
        }];
        self.memory_op(XENMEM_set_memory_map, body.as_mut_bytes(), &mut handles)
            .map(drop)
            .map_err(|errno| {
                HypercallError::new(
                    "memory_op set_memory_map",
                    format!("domain {domid}, {} entries", entries.len()),
                    errno,
                )
            })
    }

    /// Returns a domain's highest guest frame.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn maximum_gpfn(&self, domid: u16) -> CallResult<u64> {
        let mut bytes = [0; 8];
        let [low, high, ..] = &mut bytes;
        [*low, *high] = domid.to_le_bytes();
        self.memory_op(XENMEM_maximum_gpfn, &mut bytes, &mut [])
            .map(i64::cast_unsigned)
            .map_err(|errno| HypercallError::new("memory_op maximum_gpfn", domain(domid), errno))
    }
}
