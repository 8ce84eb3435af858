//! `console_io`: dom0's console, and a log for others. Source: `public/xen.h`, CONSOLEIO_*.

use guest_abi::errno::Errno;
use hv_hw::virt::VcpuHw;

use crate::console;
use crate::hypercall::{Answer, Call, low};

/// Bytes moved at a time.
const CHUNK: usize = 256;
/// The most that one call moves: a line or two of a kernel's log.
const MAX_BYTES: u32 = 4096;

/// Writes a part and has the guest come again for the rest.
#[inline(never)]
pub(super) fn write<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let count = low(call.arg(1));
    let now = count.min(MAX_BYTES);
    let mut done = 0;
    let mut text = [0; CHUNK];
    while done < now as usize {
        let part = (now as usize - done).min(CHUNK);
        let from = call
            .pointer(2)
            .checked_add(done as u64)
            .ok_or(Errno::EFAULT)?;
        let text = text.get_mut(..part).expect("a part is at most a chunk");
        call.runner.copy_bytes_in(from, text)?;
        console::guest_output(&call.runner.domain, text);
        done += part;
    }
    if now == count {
        return Ok(0);
    }
    let rest = u64::from(count - now);
    let next = call.arg(2).wrapping_add(u64::from(now));
    let regs = call.runner.hw.regs();
    regs.set_rsi(rest);
    regs.set_rdx(next);
    Err(super::Stop::Continuation)
}

/// Hands over what was typed; 0 where nothing was.
#[inline(never)]
pub(super) fn read<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let count = low(call.arg(1));
    let mut text = [0; CHUNK];
    let wanted = (count as usize).min(CHUNK);
    let text = text.get_mut(..wanted).expect("at most a chunk is wanted");
    let got = console::take_input(text);
    let text = text.get(..got).expect("no more is taken than wanted");
    call.runner.copy_bytes_out(call.pointer(2), text)?;
    Ok(got as u64)
}
