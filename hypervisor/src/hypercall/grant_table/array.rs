//! The array that an operation works through.

use guest_abi::compat::Compat;
use guest_abi::errno::Errno;
use hv_core::addr::Gva;
use hv_hw::virt::VcpuHw;

use crate::hypercall::grant_table::{Call, Stop};
use crate::hypercall::{Answer, low};

/// Elements copied at a time.
const CHUNK: u32 = 8;

/// The array of a call, cut to what is done in one go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Array {
    base: Gva,
    count: u32,
    now: u32,
}

impl Array {
    /// The array of `call`, of which up to `batch` elements are done now.
    pub(super) fn of<H: VcpuHw>(call: &Call<'_, H>, batch: u32) -> Result<Self, Stop> {
        let count = low(call.arg(2));
        // as Xen: a count is an unsigned int, and half of them are no count
        if i32::try_from(count).is_err() {
            return Err(Errno::EINVAL.into());
        }
        Ok(Self {
            base: call.pointer(1),
            count,
            now: count.min(batch),
        })
    }

    /// Copies the elements that are done now in, some at a time; has `serve` answer each; and copies them out again.
    #[inline]
    pub(super) fn each<T: Compat, H: VcpuHw>(
        self,
        call: &mut Call<'_, H>,
        mut serve: impl FnMut(&mut Call<'_, H>, &mut T),
    ) -> Result<(), Errno> {
        if self.now == 1 {
            let mut element: T = call.runner.copy_in(self.base)?;
            serve(call, &mut element);
            return call.runner.copy_out(self.base, &element);
        }
        let mut elements = [T::new_zeroed(); CHUNK as usize];
        let mut index = 0;
        while index < self.now {
            let count = CHUNK.min(self.now - index);
            let part = &mut elements[..count as usize];
            let at = self.at::<T, H>(call, index)?;
            call.runner.copy_in_all(at, part)?;
            for element in &mut *part {
                serve(call, element);
            }
            call.runner.copy_out_all(at, part)?;
            index += count;
        }
        Ok(())
    }

    /// Where element `index` is.
    fn at<T: Compat, H: VcpuHw>(self, call: &Call<'_, H>, index: u32) -> Result<Gva, Errno> {
        call.runner.element::<T>(self.base, u64::from(index))
    }

    /// All is done, or the guest comes again for the rest.
    pub(super) fn done<T: Compat, H: VcpuHw>(self, call: &mut Call<'_, H>) -> Answer {
        if self.now == self.count {
            return Ok(0);
        }
        let rest = self.at::<T, H>(call, self.now)?;
        let regs = call.runner.hw.regs();
        regs.set_rsi(rest.as_u64());
        regs.set_rdx(u64::from(self.count - self.now));
        Err(Stop::Continuation)
    }
}
