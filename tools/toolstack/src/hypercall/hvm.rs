//! hvm_op: parameters of a domain.

use guest_abi::hvm::hvm_op::{HVMOP_get_param, HVMOP_set_param, XenHvmParam};
use guest_abi::xen::__HYPERVISOR_hvm_op;
use zerocopy::IntoBytes;

use super::{CallResult, Hyper, HypercallError};

impl Hyper {
    /// Sets a parameter (`HVM_PARAM_*`).
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn set_param(&self, domid: u16, index: u32, value: u64) -> CallResult<()> {
        let mut body = XenHvmParam {
            domid,
            pad: 0,
            index,
            value,
        };
        self.call_with(__HYPERVISOR_hvm_op, HVMOP_set_param, body.as_mut_bytes())
            .map(drop)
            .map_err(|errno| {
                HypercallError::new(
                    "hvm_op set_param",
                    format!("domain {domid}, index {index}, value {value:#x}"),
                    errno,
                )
            })
    }

    /// Reads one.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn get_param(&self, domid: u16, index: u32) -> CallResult<u64> {
        let mut body = XenHvmParam {
            domid,
            pad: 0,
            index,
            value: 0,
        };
        self.call_with(__HYPERVISOR_hvm_op, HVMOP_get_param, body.as_mut_bytes())
            .map_err(|errno| {
                HypercallError::new(
                    "hvm_op get_param",
                    format!("domain {domid}, index {index}"),
                    errno,
                )
            })?;
        Ok(body.value)
    }
}
