//! What a vCPU did with its time, and the guest's own copies: run state and, for its vDSO, a second clock.
//!
//! The copies live in frames that are held, at places translated once: later the guest may run on page tables that do
//! not map them.

use hv_core::addr::{Gpa, PAGE_SIZE};
use hv_core::vcpu::runstate::{RunState, Runstate, RunstateArea};
use hv_core::vcpu::time::PvClock;
use hv_hw::direct_map;

use crate::machine::host;
use crate::machine::pinned::Pinned;

/// Run state and the guest's copies.
#[derive(Debug)]
pub(crate) struct Account {
    state: Runstate,
    copy: Option<StateCopy>,
    clock: Option<(Pinned, usize)>,
}

#[derive(Debug)]
struct StateCopy {
    area: RunstateArea,
    first: (Gpa, Pinned),
    second: Option<Pinned>,
}

impl StateCopy {
    fn write(&self, state: &Runstate, has_flag: bool) {
        state.write(&self.area, has_flag, |gpa, bytes| {
            let page = gpa.align_down(PAGE_SIZE);
            let frame = if page == self.first.0 {
                Some(&self.first.1)
            } else {
                self.second.as_ref()
            };
            if let Some(frame) = frame {
                let at = frame.mfn().base() + gpa.page_offset() as u64;
                direct_map::write(at, bytes).expect("a held frame is RAM of the guest");
            }
        });
    }
}

impl Account {
    /// An account that begins now.
    #[must_use]
    pub(crate) fn new(is_up: bool) -> Self {
        let state = if is_up {
            RunState::Runnable
        } else {
            RunState::Offline
        };
        Self {
            state: Runstate::new(state, host::now_ns()),
            copy: None,
            clock: None,
        }
    }

    /// Closes the stretch of time in the current state and begins one in `state`.
    pub(crate) fn change(&mut self, state: RunState, now_ns: u64, has_flag: bool) {
        self.state.change(state, now_ns);
        if let Some(copy) = &self.copy {
            copy.write(&self.state, has_flag);
        }
    }

    /// The state, with the time in each up to now.
    #[must_use]
    pub(crate) fn state(&self) -> Runstate {
        let mut state = self.state;
        state.change(state.state(), host::now_ns());
        state
    }

    /// Keeps a copy of the state in the guest's memory from now on.
    pub(crate) fn keep_state_copy(
        &mut self,
        area: RunstateArea,
        first: (Gpa, Pinned),
        second: Option<Pinned>,
        has_flag: bool,
    ) {
        let copy = StateCopy {
            area,
            first: (first.0.align_down(PAGE_SIZE), first.1),
            second,
        };
        copy.write(&self.state, has_flag);
        self.copy = Some(copy);
    }

    /// Keeps a copy of the clock at `offset` of `frame` from now on, or none.
    pub(crate) fn keep_clock_copy(&mut self, place: Option<(Pinned, usize)>, clock: &PvClock) {
        self.clock = place;
        self.write_clock(clock);
    }

    /// Keeps no copies any longer. What held their frames is returned, to be dropped where no lock is held.
    pub(crate) fn forget_copies(&mut self) -> impl Sized + use<> {
        (self.copy.take(), self.clock.take())
    }

    /// Writes the guest's copy of the clock again, where it has one.
    pub(crate) fn write_clock(&self, clock: &PvClock) {
        if let Some((frame, offset)) = &self.clock {
            clock.write(frame, *offset);
        }
    }

    /// Keeps no copy of the state any longer.
    pub(crate) fn forget_state_copy(&mut self) {
        self.copy = None;
    }
}
