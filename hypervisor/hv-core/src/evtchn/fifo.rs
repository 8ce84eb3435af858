//! The FIFO ABI: one word a port, linked into 16 queues a vCPU, in order of arrival within a priority.
//!
//! The guest supplies the pages of the words and a control block a vCPU (ready bits and queue heads), and may write
//! anything there at any time. So nothing we decide by is read back from it but single bits: the tails are ours, links
//! are written and never followed, retries are bounded. A guest that breaks the protocol loses its own events.
//! Source: `public/event_channel.h, EVTCHN_FIFO_*`. Its sibling is `two_level.rs`.

use alloc::vec::Vec;
use core::mem::offset_of;

use guest_abi::event_channel::{
    EVTCHN_FIFO_BUSY, EVTCHN_FIFO_EVENT_WORDS_PER_PAGE, EVTCHN_FIFO_LINK_MASK as LINK,
    EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_MAX_EVENT_ARRAY_PAGES,
    EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PENDING, EvtchnFifoControlBlock,
};

use super::ports::{Channel, Queue};
use super::{Error, Port, Raised};
use crate::addr::PAGE_BYTES;
use crate::mem::SharedWords;

/// Event words in a page.
pub(super) const WORDS_PER_PAGE: u32 = EVTCHN_FIFO_EVENT_WORDS_PER_PAGE;
/// Ports there are.
pub(super) const PORTS: u32 = EVTCHN_FIFO_NR_CHANNELS;
/// Queues a vCPU.
pub(super) const PRIORITIES: usize = EVTCHN_FIFO_MAX_QUEUES;

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;

const CONTROL_BYTES: usize = size_of::<EvtchnFifoControlBlock>();
const CONTROL_READY: usize = offset_of!(EvtchnFifoControlBlock, ready);
const CONTROL_HEADS: usize = offset_of!(EvtchnFifoControlBlock, head);

/// Tries to link behind a tail that the guest keeps changing; Linux changes it once, to unlink it.
const LINK_TRIES: u32 = 4;

/// The pages a domain supplied.
pub(super) struct Fifo<F> {
    words: Vec<F>,
    controls: Vec<Option<Control<F>>>,
}

/// One vCPU's control block, and the tails that go with its heads.
struct Control<F> {
    frame: F,
    offset: usize,
    /// The port last linked in, by priority; 0 for none.
    tails: [u32; PRIORITIES],
}

impl<F: SharedWords> Fifo<F> {
    /// No pages yet, for `vcpus` vCPUs.
    pub(super) fn new(vcpus: usize) -> Result<Self, Error> {
        let mut controls = Vec::new();
        controls
            .try_reserve_exact(vcpus)
            .map_err(|_| Error::NoMemory)?;
        controls.resize_with(vcpus, || None);
        Ok(Self {
            words: Vec::new(),
            controls,
        })
    }

    /// True where a control block may start at byte `offset` of a page.
    pub(super) fn is_control_offset(offset: u32) -> bool {
        offset.is_multiple_of(8) && offset as usize <= PAGE_BYTES - CONTROL_BYTES
    }

    /// Takes the control block of a vCPU that has none yet.
    pub(super) fn init_control(&mut self, vcpu: u16, frame: F, offset: u32) -> Result<(), Error> {
        if !Self::is_control_offset(offset) {
            return Err(Error::BadArgument);
        }
        let slot =
            nospec::get_mut::<{ nospec::EVENT_QUEUES }, _>(&mut self.controls, usize::from(vcpu))
                .ok_or(Error::NoSuchVcpu)?;
        if slot.is_some() {
            return Err(Error::BadArgument);
        }
        *slot = Some(Control {
            frame,
            offset: offset as usize,
            tails: [0; PRIORITIES],
        });
        Ok(())
    }

    /// Takes the next page of event words; returns the ports it holds.
    pub(super) fn add_page(&mut self, page: F) -> Result<core::ops::Range<u32>, Error> {
        let pages = u32::try_from(self.words.len()).map_err(|_| Error::NoFreePort)?;
        if pages >= EVTCHN_FIFO_MAX_EVENT_ARRAY_PAGES {
            return Err(Error::NoFreePort);
        }
        self.words.try_reserve(1).map_err(|_| Error::NoMemory)?;
        self.words.push(page);
        Ok(pages * WORDS_PER_PAGE..(pages + 1) * WORDS_PER_PAGE)
    }

    /// Marks `port` pending and links it into its queue, unless it is masked or linked already.
    pub(super) fn set_pending(&mut self, port: Port, channel: &mut Channel) -> Raised {
        let Some((page, at)) = self.word(port) else {
            let is_newly_pending = !core::mem::replace(&mut channel.is_pending_early, true);
            return Raised {
                is_newly_pending,
                wants_upcall: false,
            };
        };
        let before = page.fetch_or_u32(at, PENDING);
        Raised {
            is_newly_pending: before & PENDING == 0,
            wants_upcall: before & (MASKED | LINKED) == 0 && self.link(port, channel),
        }
    }

    /// Clears the mask bit and links `port` where it is pending.
    pub(super) fn unmask(&mut self, port: Port, channel: &mut Channel) -> Raised {
        let Some((page, at)) = self.word(port) else {
            return Raised::NOTHING;
        };
        let before = page.fetch_and_u32(at, !MASKED);
        Raised {
            is_newly_pending: false,
            wants_upcall: before & PENDING != 0 && before & LINKED == 0 && self.link(port, channel),
        }
    }

    /// Clears the pending bit; the port stays linked until the guest comes by.
    pub(super) fn clear_pending(&self, port: Port) {
        if let Some((page, at)) = self.word(port) {
            page.fetch_and_u32(at, !PENDING);
        }
    }

    /// True where the pending bit is set.
    pub(super) fn is_pending(&self, port: Port) -> bool {
        self.word(port)
            .is_some_and(|(page, at)| page.load_u32(at) & PENDING != 0)
    }

    /// True where the mask bit is set, or there is no word yet.
    pub(super) fn is_masked(&self, port: Port) -> bool {
        self.word(port)
            .is_none_or(|(page, at)| page.load_u32(at) & MASKED != 0)
    }

    /// Appends `port` to its queue. True where the guest must be told that the queue has become ready.
    fn link(&mut self, port: Port, channel: &mut Channel) -> bool {
        let queue = channel.queue;
        // Without a control block the guest has asked for no events on this vCPU.
        if self.control(queue).is_none() {
            return false;
        }
        let Some((page, at)) = self.word(port) else {
            return false;
        };
        if page.fetch_or_u32(at, LINKED) & LINKED != 0 {
            return false;
        }
        // It was unlinked, so where it is a tail still, that queue has run empty. Left there, what is linked
        // behind it next would go into the queue it joins now.
        if let Some(tail) = self.tail(channel.last_queue)
            && *tail == port.get()
        {
            *tail = 0;
        }
        channel.last_queue = queue;
        let Some(tail) = self.tail(queue) else {
            return false;
        };
        let old_tail = core::mem::replace(tail, port.get());
        if old_tail != 0 && self.link_behind(Port::new(old_tail), port) {
            return false;
        }
        self.control(queue)
            .is_some_and(|control| control.start(queue, port))
    }

    /// Makes `tail` name `port` as its successor. False where the guest has consumed `tail` already.
    fn link_behind(&self, tail: Port, port: Port) -> bool {
        let Some((page, at)) = self.word(tail) else {
            return false;
        };
        let mut word = page.load_u32(at);
        for attempt in 0..=LINK_TRIES {
            if word & LINKED == 0 {
                page.fetch_and_u32(at, !BUSY);
                return false;
            }
            let linked = word & !(BUSY | LINK) | port.get() & LINK;
            match page.compare_exchange_u32(at, word, linked) {
                Ok(_) => return true,
                // BUSY keeps a well-behaved guest from unlinking the word while we try again.
                Err(_) if attempt == 0 => word = page.fetch_or_u32(at, BUSY) | BUSY,
                Err(found) => word = found,
            }
        }
        page.fetch_and_u32(at, !BUSY);
        true
    }

    fn word(&self, port: Port) -> Option<(&F, usize)> {
        let port = port.get();
        let page = nospec::get::<{ nospec::EVENT_WORDS }, _>(
            &self.words,
            (port / WORDS_PER_PAGE) as usize,
        )?;
        Some((page, (port % WORDS_PER_PAGE) as usize * 4))
    }

    fn control(&self, queue: Queue) -> Option<&Control<F>> {
        self.controls.get(usize::from(queue.vcpu))?.as_ref()
    }

    fn tail(&mut self, queue: Queue) -> Option<&mut u32> {
        self.controls
            .get_mut(usize::from(queue.vcpu))?
            .as_mut()?
            .tails
            .get_mut(usize::from(queue.priority))
    }
}

impl<F: SharedWords> Control<F> {
    /// Starts an empty queue with `port`. True where its ready bit was clear.
    fn start(&self, queue: Queue, port: Port) -> bool {
        let head = self.offset + CONTROL_HEADS + usize::from(queue.priority) * 4;
        self.frame.store_u32(head, port.get());
        let ready = 1 << queue.priority;
        self.frame.fetch_or_u32(self.offset + CONTROL_READY, ready) & ready == 0
    }
}
