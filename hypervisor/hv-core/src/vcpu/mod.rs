//! Virtual CPUs, as far as the core logic goes: who they are, their time, their run state, the area they share with the
//! guest.

pub mod context;
pub mod event;
pub mod initialise;
pub mod runstate;
pub mod task;
pub mod time;
pub mod vcpu_info;

use core::fmt;

use crate::domid::DomId;

/// Names a vCPU of any domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VcpuId {
    pub domid: DomId,
    /// Its index in the domain: what the guest calls its vCPU id.
    pub index: u16,
}

impl fmt::Display for VcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}v{}", self.domid, self.index)
    }
}
