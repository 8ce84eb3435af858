//! The hypervisor's log for `xl dmesg`, and its debug keys for `xl debug-keys`.

use guest_abi::errno::Errno;
use guest_abi::sysctl::{XenSysctlDebugKeys, XenSysctlReadconsole};
use hv_core::addr::Gva;
use hv_hw::console::{self, HistoryStart};
use hv_hw::virt::VcpuHw;

use crate::console::debug_keys;
use crate::hypercall::{Answer, Call};

/// Bytes moved at a time, on our stack.
const CHUNK: usize = 512;
/// The most that one call reads; whoever wants more reads on at the index that comes back.
const MAX_BYTES: u32 = 64 << 10;
/// The most keys that one call presses.
const MAX_KEYS: u32 = 64;

/// XEN_SYSCTL_readconsole: text from the oldest on, or with `incremental` from `index` on; `clear` forgets all text up
/// to where the reading ended. Indices are the low halves of positions in the stream of all text.
///
/// # Errors
/// EFAULT.
pub(super) fn read<H: VcpuHw>(call: &mut Call<'_, H>, arg: &mut XenSysctlReadconsole) -> Answer {
    let start = if arg.incremental != 0 {
        HistoryStart::Index(arg.index)
    } else {
        HistoryStart::Oldest
    };
    let mut at = console::history_position(start);
    let room = arg.count.min(MAX_BYTES) as usize;
    let mut done = 0;
    let mut text = [0; CHUNK];
    while done < room {
        let part = text
            .get_mut(..CHUNK.min(room - done))
            .ok_or(Errno::EINVAL)?;
        let (first, count) = console::copy_history(at, part);
        if count == 0 {
            break;
        }
        let to = Gva::new(arg.buffer)
            .checked_add(done as u64)
            .ok_or(Errno::EFAULT)?;
        call.runner
            .copy_bytes_out(to, part.get(..count).ok_or(Errno::EINVAL)?)?;
        done += count;
        at = first.wrapping_add(count as u64);
    }
    if arg.clear != 0 {
        console::forget_history(at);
    }
    arg.count = u32::try_from(done).map_err(|_| Errno::EINVAL)?;
    arg.index = super::super::low(at);
    Ok(0)
}

/// XEN_SYSCTL_debug_keys.
///
/// # Errors
/// EFAULT, E2BIG for more than [`MAX_KEYS`].
pub(super) fn debug_keys<H: VcpuHw>(
    call: &mut Call<'_, H>,
    arg: &mut XenSysctlDebugKeys,
) -> Answer {
    if arg.nr_keys > MAX_KEYS {
        return Err(Errno::E2BIG.into());
    }
    for index in 0..u64::from(arg.nr_keys) {
        let at = call.runner.element::<u8>(Gva::new(arg.keys), index)?;
        debug_keys::pressed(call.runner.copy_in(at)?);
    }
    Ok(0)
}
