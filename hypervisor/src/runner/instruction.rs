//! The instruction that a vCPU executes: stepped over, or fetched and decoded for what the CPU does not say of it.

use hv_core::addr::{Gva, PAGE_BYTES};
use hv_core::emulate::{CodeSize, CpuView, DecodeError, ExitingInsn, Gprs, SegmentBases};
use hv_core::walk::{self, Access};
use hv_core::x86::gpr::RSP;
use hv_hw::virt::{Event, SEGMENT_CS, SystemSet, VcpuHw};

use super::{Next, Runner, raise, retry};
use crate::guest_mem::DomainMemory;
use crate::pcpu::Pcpu;

/// Longest instruction, in bytes.
const MAX_LENGTH: usize = 15;
/// Access rights of CS: 32-bit code.
const CS_BIG: u32 = 1 << 14;

/// An instruction's bytes.
struct Fetched {
    bytes: [u8; MAX_LENGTH],
    length: usize,
}

impl Fetched {
    /// As many as are mapped, which may be none.
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl<H: VcpuHw> Runner<H> {
    /// Steps over the instruction that exited, which has been [found](Self::finds).
    #[inline(always)]
    pub(crate) fn skip(&mut self) {
        let length = match self.hw.instruction_length() {
            Some(length) => length,
            None => self.take_decoded_length(),
        };
        self.hw.skip(length);
    }

    #[inline]
    fn take_decoded_length(&mut self) -> u64 {
        let length = u64::from(core::mem::take(&mut self.decoded_length));
        debug_assert_ne!(
            length, 0,
            "an instruction is found before it is stepped over"
        );
        length
    }

    /// True where the instruction that exited, which is as `insn` says, can be stepped over: its length is known. To be
    /// asked before anything of it is done: where the CPU does not say how long it is, memory may have another by now,
    /// and what the exit asks for is [gone].
    #[inline(always)]
    pub(crate) fn finds(&mut self, insn: ExitingInsn) -> bool {
        if self.hw.knows_length() {
            return true;
        }
        // whoever asks knows which instruction: of the comparisons little is left here
        let plain = insn.plain_length(self.first_bytes().1);
        let length = plain.or_else(|| self.length_of(insn));
        length.is_some_and(|length| self.has_length(length))
    }

    /// The length of the instruction at RIP, where that is as `insn` says, by the decoder.
    #[cold]
    #[inline(never)]
    pub(crate) fn length_of(&self, insn: ExitingInsn) -> Option<u8> {
        let (code_size, at) = self.code();
        insn.length(self.fetch(at).bytes(), code_size)
    }

    /// Notes that the instruction which exited was found, with `length`: false where the CPU says another.
    #[inline]
    pub(crate) fn has_length(&mut self, length: u8) -> bool {
        self.gone_from = None;
        if let Some(known) = self.hw.instruction_length() {
            return known == u64::from(length);
        }
        self.decoded_length = length;
        true
    }

    /// Decodes the instruction at RIP; `None` for one that `decode` does not know.
    pub(crate) fn decode<T>(
        &self,
        decode: fn(&[u8], &CpuView) -> Result<T, DecodeError>,
    ) -> Option<T> {
        let (code_size, at) = self.code();
        let system = self.hw.system(SystemSet::SEGMENTS.union(SystemSet::RIP));
        let view = CpuView {
            code_size,
            rip: system.rip,
            gprs: self.gprs(),
            bases: SegmentBases(core::array::from_fn(|index| system.segments[index].base)),
        };
        decode(self.fetch(at).bytes(), &view).ok()
    }

    /// The general-purpose registers, RSP among them.
    pub(crate) fn gprs(&self) -> Gprs {
        let mut gprs = self.hw.read_regs().gpr;
        gprs[RSP] = self.hw.system(SystemSet::RSP).rsp;
        Gprs(gprs)
    }

    /// The linear address of the instruction at RIP, and how its bytes are to be read.
    #[inline]
    fn code(&self) -> (CodeSize, Gva) {
        const LOW: u64 = u32::MAX as u64;
        let regs = self.hw.system(SystemSet::CODE.union(SystemSet::RIP));
        if self.hw.is_64_bit() {
            return (CodeSize::Bits64, Gva::new(regs.rip));
        }
        let code = regs.segments[SEGMENT_CS];
        let code_size = if code.access & CS_BIG != 0 {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        };
        let linear = code.base.wrapping_add(regs.rip) & LOW;
        (code_size, Gva::new(linear))
    }

    /// The first three bytes of the instruction at RIP or more, the first lowest; zeroes where they are not in one page
    /// that is mapped. With how they are to be read.
    #[inline(never)]
    pub(crate) fn first_bytes(&self) -> (CodeSize, u64) {
        let (code_size, at) = self.code();
        (code_size, self.first_bytes_at(at))
    }

    #[inline(always)]
    fn first_bytes_at(&self, at: Gva) -> u64 {
        const LAST_WORD: usize = PAGE_BYTES / 8 - 1;
        let mode = self.hw.paging();
        let memory = DomainMemory::lock(&self.domain, &self.tlb);
        let known = memory.known_frame(&mode, at, Access::Read);
        let found = known.or_else(|| memory.walk_to(&mode, at, Access::Read).ok());
        let Some(frame) = found else { return 0 };
        let (index, offset) = (at.page_offset() / 8, at.page_offset() % 8);
        let first = frame.word(index).load() >> (8 * offset);
        match offset {
            0..=5 => first,
            _ if index == LAST_WORD => 0,
            _ => first | frame.word(index + 1).load() << (64 - 8 * offset),
        }
    }

    /// Copies as much of the instruction at `at` as is mapped: it may end right before a page that is not.
    fn fetch(&self, at: Gva) -> Fetched {
        let mut bytes = [0; MAX_LENGTH];
        let length = self.fetch_from(at, &mut bytes);
        Fetched { bytes, length }
    }

    fn fetch_from(&self, start: Gva, to: &mut [u8]) -> usize {
        let memory = DomainMemory::lock(&self.domain, &self.tlb);
        let mode = self.hw.paging();
        if walk::copy_in(&memory, &mode, start, Access::Read, to).is_ok() {
            return to.len();
        }
        let in_page = (PAGE_BYTES - start.page_offset()).min(to.len());
        let part = to.get_mut(..in_page).expect("no longer than the buffer");
        if walk::copy_in(&memory, &mode, start, Access::Read, part).is_ok() {
            in_page
        } else {
            0
        }
    }
}

/// The instruction that exited is not in memory any more, or has become another: another vCPU has changed the code, or
/// where it is mapped. Nothing of it is done, and the guest executes what is there now. Where that comes to the same
/// again, it gets #GP, as with Xen.
#[cold]
#[inline(never)]
pub(crate) fn gone<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) -> Next {
    let rip = runner.hw.rip();
    if runner.gone_from == Some(rip) {
        runner.gone_from = None;
        return raise(runner, Event::PROTECTION);
    }
    runner.gone_from = Some(rip);
    // the CPU may have fetched it by a translation of before, and would again
    let regs = runner.hw.system(SystemSet::CR3);
    runner.hw.set_system(&regs, SystemSet::CR3);
    retry(pcpu)
}
