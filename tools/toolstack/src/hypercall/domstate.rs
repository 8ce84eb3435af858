//! domctl: a domain's state as records: devices, registers, CPU policy.

use std::mem::offset_of;

use guest_abi::Errno;
use guest_abi::domctl::*;
use xendev::Handle;
use zerocopy::IntoBytes;

use super::domctl::vcpu_error;
use super::{CallResult, Hyper, HypercallError, domain};

/// Bytes of a `vcpu_guest_context` (public/arch-x86/xen.h).
const VCPU_CONTEXT: usize = 5168;

/// CPUID leaves and MSRs of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuPolicy {
    /// By leaf and sub-leaf.
    pub leaves: Vec<XenCpuidLeaf>,
    /// By number.
    pub msrs: Vec<XenMsrEntry>,
}

impl Hyper {
    /// Saves the state of a domain's vCPUs and devices, as records.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn get_hvm_context(&self, domid: u16) -> CallResult<Vec<u8>> {
        let refused = |errno| HypercallError::new("domctl gethvmcontext", domain(domid), errno);
        // without a buffer the call tells the size
        let mut body = XenDomctlHvmcontext::default();
        self.domctl(XEN_DOMCTL_gethvmcontext, domid, &mut body, &mut [])
            .map_err(refused)?;
        let mut records = vec![0; body.size as usize];
        let mut handles = [Handle {
            at: offset_of!(XenDomctlHvmcontext, buffer),
            data: &mut records,
        }];
        self.domctl(XEN_DOMCTL_gethvmcontext, domid, &mut body, &mut handles)
            .map_err(refused)?;
        records.truncate(body.size as usize);
        Ok(records)
    }

    /// Loads the state of a domain's vCPUs and devices from records; vCPUs without a CPU record stay down.
    ///
    /// # Errors
    /// The hypervisor's: EINVAL for records it cannot take.
    pub fn set_hvm_context(&self, domid: u16, records: &[u8]) -> CallResult<()> {
        let refused = |errno| {
            HypercallError::new(
                "domctl sethvmcontext",
                format!("domain {domid}, {} bytes", records.len()),
                errno,
            )
        };
        let size = u32::try_from(records.len()).map_err(|_| refused(Errno::E2BIG))?;
        let mut copy = records.to_vec();
        let mut body = XenDomctlHvmcontext {
            size,
            ..Default::default()
        };
        let mut handles = [Handle {
            at: offset_of!(XenDomctlHvmcontext, buffer),
            data: &mut copy,
        }];
        self.domctl(XEN_DOMCTL_sethvmcontext, domid, &mut body, &mut handles)
            .map(drop)
            .map_err(refused)
    }

    /// Saves a vCPU's registers, in Xen's `vcpu_guest_context`.
    ///
    /// # Errors
    /// The hypervisor's: EINVAL for a vCPU that never ran.
    pub fn vcpu_context(&self, domid: u16, vcpu: u32) -> CallResult<Vec<u8>> {
        let mut registers = vec![0; VCPU_CONTEXT];
        let mut body = XenDomctlVcpucontext {
            vcpu,
            ..Default::default()
        };
        let mut handles = [Handle {
            at: offset_of!(XenDomctlVcpucontext, ctxt),
            data: &mut registers,
        }];
        self.domctl(XEN_DOMCTL_getvcpucontext, domid, &mut body, &mut handles)
            .map_err(|errno| vcpu_error("domctl getvcpucontext", domid, vcpu, errno))?;
        Ok(registers)
    }

    /// Sets a domain's CPUID and MSR policy.
    ///
    /// # Errors
    /// The hypervisor's; the leaf or MSR that it refused is named.
    pub fn set_cpu_policy(&self, domid: u16, policy: &CpuPolicy) -> CallResult<()> {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let mut body = XenDomctlCpuPolicy {
            nr_leaves: count(policy.leaves.len()),
            nr_msrs: count(policy.msrs.len()),
            err_leaf: u32::MAX,
            err_subleaf: u32::MAX,
            err_msr: u32::MAX,
            ..Default::default()
        };
        let mut copy = policy.clone();
        self.cpu_policy(XEN_DOMCTL_set_cpu_policy, domid, &mut body, &mut copy)
            .map_err(|errno| {
                let about = match (body.err_leaf, body.err_msr) {
                    (u32::MAX, u32::MAX) => domain(domid),
                    (u32::MAX, msr) => format!("domain {domid}, MSR {msr:#x}"),
                    (leaf, _) => format!(
                        "domain {domid}, CPUID leaf {leaf:#x} subleaf {:#x}",
                        body.err_subleaf
                    ),
                };
                HypercallError::new("domctl set_cpu_policy", about, errno)
            })
    }

    fn cpu_policy(
        &self,
        cmd: u32,
        domid: u16,
        body: &mut XenDomctlCpuPolicy,
        policy: &mut CpuPolicy,
    ) -> Result<(), Errno> {
        let mut handles = [
            Handle {
                at: offset_of!(XenDomctlCpuPolicy, leaves),
                data: policy.leaves.as_mut_slice().as_mut_bytes(),
            },
            Handle {
                at: offset_of!(XenDomctlCpuPolicy, msrs),
                data: policy.msrs.as_mut_slice().as_mut_bytes(),
            },
        ];
        self.domctl(cmd, domid, body, &mut handles).map(drop)
    }
}
