//! Where a vCPU's time went: running, runnable (stolen from it), blocked, offline.
//!
//! The guest registers an area of 48 bytes (44 of a 32-bit guest) that is rewritten at every change. It is per-CPU data
//! and may straddle two pages, so the bytes are handed out in ordered pieces and the caller writes them where they
//! belong.
//! Source: `public/vcpu.h, struct vcpu_runstate_info`.

use core::mem::offset_of;

use arrayvec::ArrayVec;
use guest_abi::compat::{Compat, CompatVcpuRunstateInfo, Width};
use guest_abi::vcpu::{VcpuRunstateInfo, XEN_RUNSTATE_UPDATE as UPDATE};
use zerocopy::IntoBytes;

use crate::addr::{Gpa, PAGE_BYTES};

/// Bytes of the guest's area at most.
pub const RUNSTATE_BYTES: usize = size_of::<VcpuRunstateInfo>();

/// What a vCPU is doing; the values are the ABI's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RunState {
    Running = 0,
    /// Ready, without a CPU: stolen time.
    Runnable = 1,
    /// Waiting for an event.
    Blocked = 2,
    /// Neither: not started, paused or shut down.
    Offline = 3,
}

/// A vCPU's account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runstate {
    state: RunState,
    entry_ns: u64,
    times_ns: [u64; 4],
}

impl Runstate {
    /// An account that starts at `now_ns` of system time in `state`.
    #[must_use]
    pub const fn new(state: RunState, now_ns: u64) -> Self {
        Self {
            state,
            entry_ns: now_ns,
            times_ns: [0; 4],
        }
    }

    /// What the vCPU is doing.
    #[must_use]
    pub fn state(&self) -> RunState {
        self.state
    }

    /// The ns it has spent in `state`, with the stretch it is in counted up to `now_ns`.
    #[must_use]
    pub fn time_in(&self, state: RunState, now_ns: u64) -> u64 {
        let mut account = *self;
        account.change(self.state, now_ns);
        account.times_ns[state as usize]
    }

    /// Closes the stretch in the current state at `now_ns` and starts one in `state` (the same one may go on).
    pub fn change(&mut self, state: RunState, now_ns: u64) {
        let now_ns = now_ns.max(self.entry_ns);
        let total = &mut self.times_ns[self.state as usize];
        *total = total.saturating_add(now_ns - self.entry_ns);
        self.entry_ns = now_ns;
        self.state = state;
    }

    /// The record as the guest reads it. Bit 63 of the entry time is clear.
    #[must_use]
    pub fn info(&self) -> VcpuRunstateInfo {
        VcpuRunstateInfo {
            state: i32::from(self.state as u8),
            _pad: 0,
            state_entry_time: self.entry_ns & !UPDATE,
            time: self.times_ns,
        }
    }

    /// Calls `write(gpa, bytes)` for each store that updates the guest's area, in the order to make them in. With
    /// `has_update_flag` (`public/xen.h, VMASST_TYPE_runstate_update_flag`) readers on other CPUs see bit 63 of the
    /// entry time while the rest changes.
    pub fn write(
        &self,
        area: &RunstateArea,
        has_update_flag: bool,
        mut write: impl FnMut(Gpa, &[u8]),
    ) {
        let info = self.info();
        if !has_update_flag {
            area.split(0, &bytes(area.width, info), &mut write);
            return;
        }
        let flagged = info.state_entry_time | UPDATE;
        // the flag's byte alone: the entry time may cross pages, and half of a new one under no flag would be believed
        let flag_at = entry_time(area.width) + size_of::<u64>() - 1;
        let [.., flag] = flagged.to_le_bytes();
        area.split(flag_at, &[flag], &mut write);
        let under_flag = VcpuRunstateInfo {
            state_entry_time: flagged,
            ..info
        };
        area.split(0, &bytes(area.width, under_flag), &mut write);
        let [.., no_flag] = info.state_entry_time.to_le_bytes();
        area.split(flag_at, &[no_flag], &mut write);
    }
}

/// The record as a guest of this width has it.
fn bytes(width: Width, info: VcpuRunstateInfo) -> ArrayVec<u8, RUNSTATE_BYTES> {
    let mut bytes = ArrayVec::new();
    match width {
        Width::Bits64 => bytes.extend(info.as_bytes().iter().copied()),
        Width::Bits32 => bytes.extend(info.narrow().as_bytes().iter().copied()),
    }
    bytes
}

/// Where the entry time is in it.
const fn entry_time(width: Width) -> usize {
    match width {
        Width::Bits64 => offset_of!(VcpuRunstateInfo, state_entry_time),
        Width::Bits32 => offset_of!(CompatVcpuRunstateInfo, state_entry_time),
    }
}

/// Where the guest wants its record: translated once, when it is registered, as later the guest may run on page tables
/// that do not map it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunstateArea {
    width: Width,
    first: Gpa,
    second_page: Option<Gpa>,
}

impl RunstateArea {
    /// The area at `first`, which goes on at the start of the page `second_page` where it crosses the end of its page.
    /// `None` where it crosses and there is no such page.
    #[must_use]
    pub fn new(width: Width, first: Gpa, second_page: Option<Gpa>) -> Option<Self> {
        if !Self::crosses(width, first.page_offset()) {
            return Some(Self {
                width,
                first,
                second_page: None,
            });
        }
        second_page.map(|second| Self {
            width,
            first,
            second_page: Some(second),
        })
    }

    /// True where an area at byte `offset` of a page goes on in the next one: both need translating.
    #[must_use]
    pub fn crosses(width: Width, offset: usize) -> bool {
        offset > PAGE_BYTES - VcpuRunstateInfo::bytes(width)
    }

    /// Calls `write` for `bytes` at `offset` of the area, in one piece or two.
    fn split(&self, offset: usize, bytes: &[u8], write: &mut impl FnMut(Gpa, &[u8])) {
        let room = (PAGE_BYTES - self.first.page_offset()).saturating_sub(offset);
        let (here, there) = bytes.split_at(room.min(bytes.len()));
        if !here.is_empty()
            && let Some(to) = self.first.checked_add(offset as u64)
        {
            write(to, here);
        }
        if let Some(second) = self.second_page
            && !there.is_empty()
        {
            let skipped = offset + here.len() - (PAGE_BYTES - self.first.page_offset());
            write(second + skipped as u64, there);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const STATES: [RunState; 4] = [
        RunState::Running,
        RunState::Runnable,
        RunState::Blocked,
        RunState::Offline,
    ];

    fn word(bytes: &[u8], offset: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[offset..offset + 8]);
        u64::from_le_bytes(word)
    }

    proptest! {
        #[test]
        fn times_add_up_to_the_time_since_the_start(
            start in 0..1u64 << 60, steps in prop::collection::vec((0..4usize, 0..1u64 << 40), 0..50),
        ) {
            let mut account = Runstate::new(RunState::Offline, start);
            let mut model = [0; 4];
            let (mut now, mut state) = (start, 3);
            for (next, ns) in steps {
                now += ns;
                model[state] += ns;
                state = next;
                account.change(STATES[next], now);
                let wide = bytes(Width::Bits64, account.info());
                let narrow = bytes(Width::Bits32, account.info());
                prop_assert_eq!((wide.len(), narrow.len()), (48, 44));
                prop_assert_eq!([wide[0], narrow[0]].map(usize::from), [next; 2]);
                prop_assert_eq!([word(&wide, 8), word(&narrow, 4)], [now; 2]);
                for (index, time) in model.iter().enumerate() {
                    prop_assert_eq!(word(&wide, 16 + index * 8), *time);
                    prop_assert_eq!(word(&narrow, 12 + index * 8), *time);
                    prop_assert_eq!(account.time_in(STATES[index], now), *time);
                }
                prop_assert_eq!(model.iter().sum::<u64>(), now - start);
            }
        }

        /// Wherever the area is, its bytes end up in it and nowhere else; a reader in between sees the flag.
        #[test]
        fn the_record_lands_in_its_area_under_the_flag(slot in 0..1024usize, is_narrow: bool, has_update_flag: bool) {
            let first = Gpa::new(0x5000 + slot as u64 * 4);
            let (width, top_of_entry) = if is_narrow { (Width::Bits32, 11) } else { (Width::Bits64, 15) };
            let area = RunstateArea::new(width, first, Some(Gpa::new(0x9000))).expect("there is a second page");
            let mut account = Runstate::new(RunState::Running, 5);
            account.change(RunState::Runnable, 12);
            let mut memory = vec![0u8; 0xA000];
            let mut flags = Vec::new();
            let place = |offset: usize| {
                let linear = slot * 4 + offset;
                if linear < 4096 { 0x5000 + linear } else { 0x9000 + linear - 4096 }
            };
            account.write(&area, has_update_flag, |gpa, bytes| {
                let at = usize::try_from(gpa.as_u64()).expect("small");
                memory[at..at + bytes.len()].copy_from_slice(bytes);
                flags.push(memory[place(top_of_entry)] >> 7);
            });
            let mut expected = vec![0u8; 0xA000];
            for (offset, byte) in bytes(width, account.info()).into_iter().enumerate() {
                expected[place(offset)] = byte;
            }
            prop_assert_eq!(memory, expected);
            prop_assert_eq!(flags.pop(), Some(0));
            prop_assert!(flags.iter().all(|flag| *flag == u8::from(has_update_flag)) || !has_update_flag);
        }
    }

    #[test]
    fn time_that_steps_back_counts_for_nothing() {
        let mut account = Runstate::new(RunState::Running, 100);
        account.change(RunState::Blocked, 50);
        assert_eq!(account.time_in(RunState::Running, 50), 0);
        assert_eq!(account.time_in(RunState::Blocked, 130), 30);
    }

    #[test]
    fn an_area_across_two_pages_needs_both() {
        let area = |width, at| RunstateArea::new(width, Gpa::new(at), None);
        assert_eq!(area(Width::Bits64, 0x1FD4), None);
        assert!(area(Width::Bits64, 0x1FD0).is_some());
        assert_eq!(area(Width::Bits32, 0x1FD8), None);
        assert!(area(Width::Bits32, 0x1FD4).is_some());
    }
}
