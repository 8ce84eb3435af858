//! The instruction that a vCPU executes: stepped over, or fetched and decoded for what the CPU does not say of it.

use hv_core::addr::Gva;
use hv_core::emulate::{self, CodeSize};
use hv_core::walk::{self, Access};
use hv_hw::virt::{Event, SEGMENT_CS, SystemSet, VcpuHw};

use super::Runner;
use crate::guest_mem::DomainMemory;

/// Longest instruction, in bytes.
const MAX_LENGTH: usize = 15;
/// Access rights of CS: 32-bit code.
const CS_BIG: u32 = 1 << 14;

/// An instruction's bytes.
pub(crate) struct Fetched {
    bytes: [u8; MAX_LENGTH],
    length: usize,
    /// How they are to be read.
    pub(crate) code_size: CodeSize,
}

impl Fetched {
    /// As many as are mapped, which may be none.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl<H: VcpuHw> Runner<H> {
    /// Steps over the instruction that exited.
    #[inline(always)]
    pub(crate) fn skip(&mut self) {
        match self.hw.instruction_length() {
            Some(length) => self.hw.skip(length),
            None => self.skip_decoded(),
        }
    }

    /// The same, where the CPU does not say how long it is. One that is not there any more, as another vCPU has changed
    /// the code, gets #GP.
    #[cold]
    #[inline(never)]
    fn skip_decoded(&mut self) {
        match self.decoded_length() {
            Some(length) => self.hw.skip(u64::from(length)),
            None => self.raised = Some(Event::PROTECTION),
        }
    }

    /// The length of the instruction at RIP, as the decoder has it.
    pub(crate) fn decoded_length(&self) -> Option<u8> {
        let fetched = self.fetch();
        emulate::length(fetched.bytes(), fetched.code_size)
    }

    /// Copies as much of the instruction at RIP as is mapped: it may end right before a page that is not.
    pub(crate) fn fetch(&self) -> Fetched {
        let regs = self.hw.system(SystemSet::CODE.union(SystemSet::RIP));
        let code = regs.segments[SEGMENT_CS];
        let (code_size, base) = if self.hw.is_64_bit() {
            (CodeSize::Bits64, 0)
        } else if code.access & CS_BIG != 0 {
            (CodeSize::Bits32, code.base)
        } else {
            (CodeSize::Bits16, code.base)
        };
        let mut bytes = [0; MAX_LENGTH];
        let length = self.fetch_from(Gva::new(base.wrapping_add(regs.rip)), &mut bytes);
        Fetched {
            bytes,
            length,
            code_size,
        }
    }

    fn fetch_from(&self, start: Gva, to: &mut [u8]) -> usize {
        let memory = DomainMemory::lock(&self.domain, &self.tlb);
        let mode = self.hw.paging();
        if walk::copy_in(&memory, &mode, start, Access::Read, to).is_ok() {
            return to.len();
        }
        let in_page = (4096 - start.page_offset()).min(to.len());
        let part = to.get_mut(..in_page).expect("no longer than the buffer");
        if walk::copy_in(&memory, &mode, start, Access::Read, part).is_ok() {
            in_page
        } else {
            0
        }
    }
}
