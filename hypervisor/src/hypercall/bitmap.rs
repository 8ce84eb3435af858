//! Bitmaps of CPUs and nodes in the caller's memory. Source: `public/domctl.h, struct xenctl_bitmap`.

use guest_abi::errno::Errno;
use guest_abi::xen::XenctlBitmap;
use hv_core::addr::Gva;
use hv_hw::virt::VcpuHw;

use crate::hypercall::Call;

/// CPUs and nodes end well before: what follows is not written, and counts as zero where it is read.
const MAX_BYTES: u32 = 1024;
/// The bits that [`first_bits`] reads.
pub(super) const FIRST_BITS: u32 = u64::BITS;

/// Fills the caller's bitmap: bit by bit what `is_set` says, zeros in the last byte's spare bits.
///
/// # Errors
/// EFAULT.
pub(super) fn put<H: VcpuHw>(
    call: &Call<'_, H>,
    map: &XenctlBitmap,
    is_set: impl Fn(u32) -> bool,
) -> Result<(), Errno> {
    let bytes = map.nr_bits.div_ceil(8).min(MAX_BYTES);
    for index in 0..bytes {
        let mut byte = 0;
        for bit in 0..8 {
            let number = index * 8 + bit;
            if number < map.nr_bits && is_set(number) {
                byte |= 1u8 << bit;
            }
        }
        let at = call
            .runner
            .element::<u8>(Gva::new(map.bitmap), u64::from(index))?;
        call.runner.copy_out(at, &byte)?;
    }
    Ok(())
}

/// The first [`FIRST_BITS`] bits of the caller's bitmap; what it does not have is zero.
///
/// # Errors
/// EFAULT.
pub(super) fn first_bits<H: VcpuHw>(call: &Call<'_, H>, map: &XenctlBitmap) -> Result<u64, Errno> {
    let mut bytes = [0; size_of::<u64>()];
    let bits = map.nr_bits.min(FIRST_BITS);
    let wanted = bytes.iter_mut().take(bits.div_ceil(8) as usize);
    for (index, byte) in (0..).zip(wanted) {
        let at = call.runner.element::<u8>(Gva::new(map.bitmap), index)?;
        *byte = call.runner.copy_in(at)?;
    }
    let mask = u64::MAX.checked_shr(FIRST_BITS - bits).unwrap_or(0);
    Ok(u64::from_le_bytes(bytes) & mask)
}
