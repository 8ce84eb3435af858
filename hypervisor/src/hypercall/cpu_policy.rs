//! CPU policies in the caller's memory: what sysctl and domctl have in common.

use guest_abi::compat::Compat;
use guest_abi::domctl::{XenCpuidLeaf, XenMsrEntry};
use guest_abi::errno::Errno;
use hv_core::addr::Gva;
use hv_core::cpuid::{CpuidLeaf, MAX_POLICY_LEAVES};
use hv_core::msr::PLATFORM_INFO;
use hv_hw::virt::VcpuHw;

use crate::hypercall::Call;

/// The most MSRs of a policy in release 4.17.
pub(super) const MAX_POLICY_MSRS: usize = 2;
/// Whether CPUID faulting is there, in bit 31: every domain has it.
const MSR_PLATFORM_INFO: u32 = 0xCE;
const MSR_ARCH_CAPABILITIES: u32 = 0x10A;

/// The MSRs of a policy with `arch_capabilities`.
#[must_use]
pub(super) fn msrs(arch_capabilities: u64) -> [XenMsrEntry; MAX_POLICY_MSRS] {
    let entry = |idx, val| XenMsrEntry { idx, flags: 0, val };
    [
        entry(MSR_PLATFORM_INFO, PLATFORM_INFO),
        entry(MSR_ARCH_CAPABILITIES, arch_capabilities),
    ]
}

/// Takes up an MSR that a toolstack gives: of IA32_ARCH_CAPABILITIES, what the domain has already.
///
/// # Errors
/// EINVAL for flags and for what the domain cannot have, EOVERFLOW for a value too large, ERANGE for another MSR.
pub(super) fn apply_msr(msr: &XenMsrEntry, arch_capabilities: &mut u64) -> Result<(), Errno> {
    match msr.idx {
        _ if msr.flags != 0 => Err(Errno::EINVAL),
        MSR_PLATFORM_INFO if msr.val >> 32 != 0 => Err(Errno::EOVERFLOW),
        MSR_PLATFORM_INFO if msr.val & !PLATFORM_INFO != 0 => Err(Errno::EINVAL),
        MSR_PLATFORM_INFO => Ok(()),
        MSR_ARCH_CAPABILITIES => {
            *arch_capabilities &= msr.val;
            Ok(())
        }
        _ => Err(Errno::ERANGE),
    }
}

/// Copies leaves out; with no array, only says how many there may be. Returns how many.
///
/// # Errors
/// ENOBUFS where there is room for fewer, EFAULT.
pub(super) fn put_leaves<H: VcpuHw>(
    call: &Call<'_, H>,
    array: u64,
    room: u32,
    leaves: &[CpuidLeaf],
) -> Result<u32, Errno> {
    let most = u32::try_from(MAX_POLICY_LEAVES).unwrap_or(u32::MAX);
    let leaves = leaves.iter().map(|leaf| XenCpuidLeaf {
        leaf: leaf.leaf,
        subleaf: leaf.subleaf,
        a: leaf.regs.eax,
        b: leaf.regs.ebx,
        c: leaf.regs.ecx,
        d: leaf.regs.edx,
    });
    put(call, array, room, leaves, most)
}

/// The same for MSRs.
///
/// # Errors
/// As for [`put_leaves`].
pub(super) fn put_msrs<H: VcpuHw>(
    call: &Call<'_, H>,
    array: u64,
    room: u32,
    msrs: &[XenMsrEntry; MAX_POLICY_MSRS],
) -> Result<u32, Errno> {
    let most = u32::try_from(MAX_POLICY_MSRS).unwrap_or(u32::MAX);
    put(call, array, room, msrs.iter().copied(), most)
}

fn put<T: Compat, H: VcpuHw>(
    call: &Call<'_, H>,
    array: u64,
    room: u32,
    values: impl Iterator<Item = T>,
    most: u32,
) -> Result<u32, Errno> {
    if array == 0 {
        return Ok(most);
    }
    let mut count = 0;
    for value in values {
        if count == room {
            return Err(Errno::ENOBUFS);
        }
        let at = call
            .runner
            .element::<T>(Gva::new(array), u64::from(count))?;
        call.runner.copy_out(at, &value)?;
        count += 1;
    }
    Ok(count)
}
