//! What is to be sent to a connection and has not been taken yet.
//!
//! An event that is the same as one still waiting is not queued twice: it would tell nothing new. Each event that a
//! guest's request caused holds that guest's [`Cause`], so that a guest which makes others' queues grow is seen, and
//! stopped by its quota of outstanding requests; after a time ([`EVENT_TIMEOUT`]) the reader is to blame, not the
//! cause.

use std::{
    cell::Cell,
    collections::{HashSet, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use xenstore::{Kind, Refusal, wire};

/// How long an event counts against the domain that caused it, unless another time was asked for.
pub(crate) const EVENT_TIMEOUT: Duration = Duration::from_secs(20);

/// One request, counted as outstanding while events that it caused wait.
#[derive(Debug)]
pub(crate) struct Cause {
    count: Rc<Cell<usize>>,
}

impl Cause {
    /// Counts one more request of the domain whose counter this is.
    pub(crate) fn new(count: &Rc<Cell<usize>>) -> Rc<Self> {
        count.set(count.get() + 1);
        Rc::new(Self {
            count: Rc::clone(count),
        })
    }
}

impl Drop for Cause {
    fn drop(&mut self) {
        self.count.set(self.count.get().saturating_sub(1));
    }
}

/// Bytes that an event takes besides those to send, which it holds a second time.
const EVENT_OVERHEAD: usize = 160;

/// The queue. Positions count bytes of the stream, and wrap as a ring's indices do.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// Bytes at the front of `bytes` that are gone.
    taken: usize,
    /// The stream's position of the first byte that waits.
    position: u32,
    events: VecDeque<Event>,
    waiting: HashSet<Rc<[u8]>>,
}

#[derive(Debug)]
struct Event {
    payload: Rc<[u8]>,
    /// Bytes that follow this event in the queue are counted from the stream's end, which only grows at the back.
    start: usize,
    end: usize,
    since: Instant,
    cause: Option<Rc<Cause>>,
}

impl Outbox {
    /// Queues a reply.
    pub(crate) fn reply(&mut self, request: &wire::Message, payload: &[u8]) {
        let (kind, id, tx) = (request.kind, request.req_id, request.tx_id);
        if wire::encode(&mut self.bytes, kind, id, tx, &[payload]).is_err() {
            self.refuse(request, Refusal::TooBig);
        }
    }

    /// Queues a refusal.
    pub(crate) fn refuse(&mut self, request: &wire::Message, refusal: Refusal) {
        let (kind, id, tx) = (Kind::Error.number(), request.req_id, request.tx_id);
        let parts: [&[u8]; 2] = [refusal.name().as_bytes(), b"\0"];
        wire::encode(&mut self.bytes, kind, id, tx, &parts).expect("error names are short");
    }

    /// Queues an event, unless the same one waits or it is longer than a message may be.
    pub(crate) fn event(&mut self, payload: Vec<u8>, cause: Option<Rc<Cause>>) {
        let payload: Rc<[u8]> = payload.into();
        if self.waiting.contains(&payload) {
            return;
        }
        let start = self.bytes.len();
        if wire::encode(
            &mut self.bytes,
            Kind::WatchEvent.number(),
            0,
            0,
            &[&payload],
        )
        .is_err()
        {
            return;
        }
        self.waiting.insert(Rc::clone(&payload));
        self.events.push_back(Event {
            payload,
            start,
            end: self.bytes.len(),
            since: Instant::now(),
            cause,
        });
    }

    /// Returns the bytes that wait.
    pub(crate) fn pending(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    /// Returns how many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Returns the bytes that it takes to keep all that waits.
    pub(crate) fn cost(&self) -> usize {
        2 * self.len() + self.events.len() * EVENT_OVERHEAD
    }

    /// Tells whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the stream's position of the first byte that waits.
    pub(crate) fn position(&self) -> u32 {
        self.position
    }

    /// Returns the stream's position after all that was queued.
    pub(crate) fn end(&self) -> u32 {
        self.position.wrapping_add(low_32(self.len()))
    }

    /// Removes bytes from the front: they were sent.
    pub(crate) fn take(&mut self, count: usize) {
        let count = count.min(self.len());
        self.taken += count;
        self.position = self.position.wrapping_add(low_32(count));
        for event in &self.events {
            if event.start >= self.taken {
                break;
            }
            // Partly sent: the same event after it is news.
            self.waiting.remove(&event.payload);
        }
        while self.events.front().is_some_and(|e| e.end <= self.taken) {
            self.events.pop_front();
        }
        self.shrink();
    }

    /// Stops counting events against their causes that have waited too long; true if there were any.
    pub(crate) fn absolve(&mut self, now: Instant, timeout: Duration) -> bool {
        let mut was_any = false;
        for event in &mut self.events {
            if now.saturating_duration_since(event.since) < timeout {
                break;
            }
            was_any |= event.cause.take().is_some();
        }
        was_any
    }

    /// Drops everything, and goes on at `position`.
    pub(crate) fn restart(&mut self, position: u32) {
        *self = Self::default();
        self.position = position;
    }

    /// Takes up what waited before a restart of the daemon.
    pub(crate) fn restore(&mut self, bytes: Vec<u8>, end: u32) {
        self.restart(end.wrapping_sub(low_32(bytes.len())));
        self.bytes = bytes;
    }

    /// Gives memory back, and moves the rest to the front once most is gone.
    fn shrink(&mut self) {
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(8192);
        } else if self.taken > 65536 && self.taken > self.bytes.len() / 2 {
            self.bytes.drain(..self.taken);
        } else {
            return;
        }
        for event in &mut self.events {
            event.start = event.start.saturating_sub(self.taken);
            event.end -= self.taken;
        }
        self.taken = 0;
    }
}

/// Positions wrap: only the low bits count.
#[expect(clippy::cast_possible_truncation, reason = "positions wrap")]
fn low_32(count: usize) -> u32 {
    count as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut inbox = wire::Inbox::default();
        inbox.push(bytes);
        std::iter::from_fn(|| inbox.pop().unwrap())
            .map(|m| (m.kind, m.payload))
            .collect()
    }

    #[test]
    fn an_event_that_waits_is_not_queued_again_but_one_under_way_is() {
        let mut outbox = Outbox::default();
        outbox.event(b"/a\0t\0".to_vec(), None);
        outbox.event(b"/a\0t\0".to_vec(), None);
        assert_eq!(kinds(outbox.pending()).len(), 1);
        outbox.take(1);
        outbox.event(b"/a\0t\0".to_vec(), None);
        let mut all = vec![15];
        all.extend_from_slice(outbox.pending());
        assert_eq!(kinds(&all).len(), 2);
    }

    #[test]
    fn a_request_is_outstanding_until_its_last_event_was_taken() {
        let count = Rc::new(Cell::new(0));
        let (mut one, mut other) = (Outbox::default(), Outbox::default());
        let cause = Cause::new(&count);
        one.event(b"/a\0t\0".to_vec(), Some(Rc::clone(&cause)));
        other.event(b"/a\0t\0".to_vec(), Some(cause));
        one.take(one.len());
        assert_eq!(count.get(), 1);
        other.take(other.len() - 1);
        assert_eq!(count.get(), 1);
        other.take(1);
        assert_eq!(count.get(), 0);
    }

    #[test]
    fn after_the_timeout_the_cause_is_absolved() {
        let count = Rc::new(Cell::new(0));
        let mut outbox = Outbox::default();
        outbox.event(b"/a\0t\0".to_vec(), Some(Cause::new(&count)));
        assert!(!outbox.absolve(Instant::now(), EVENT_TIMEOUT));
        assert!(outbox.absolve(Instant::now() + EVENT_TIMEOUT, EVENT_TIMEOUT));
        assert_eq!((count.get(), outbox.is_empty()), (0, false));
    }

    #[test]
    fn too_long_a_reply_becomes_a_refusal() {
        let mut outbox = Outbox::default();
        let request = wire::Message {
            kind: 1,
            req_id: 7,
            tx_id: 0,
            payload: vec![],
        };
        outbox.reply(&request, &[0; 4097]);
        assert_eq!(kinds(outbox.pending()), [(16, b"E2BIG\0".to_vec())]);
    }

    proptest! {
        #[test]
        fn all_bytes_come_out_in_order(steps in prop::collection::vec((any::<u8>(), 0usize..200, 0usize..400), 0..300)) {
            let mut outbox = Outbox::default();
            let (mut expected, mut got, mut unique) = (Vec::new(), Vec::new(), 0u32);
            outbox.restart(u32::MAX - 50);
            for (kind, len, take) in steps {
                let before = outbox.bytes.len();
                if kind % 2 == 0 {
                    unique += 1;
                    let mut payload = unique.to_string().into_bytes();
                    payload.resize(len + 12, b'x');
                    outbox.event(payload, None);
                } else {
                    let request = wire::Message { kind: 2, req_id: 1, tx_id: 0, payload: vec![] };
                    outbox.reply(&request, &vec![kind; len]);
                }
                expected.extend_from_slice(&outbox.bytes[before..]);
                let now = take.min(outbox.len());
                got.extend_from_slice(&outbox.pending()[..now]);
                outbox.take(take);
                prop_assert_eq!(outbox.position(), (u32::MAX - 50).wrapping_add(low_32(got.len())));
            }
            got.extend_from_slice(outbox.pending());
            prop_assert_eq!(got, expected);
            outbox.take(usize::MAX);
            prop_assert!(outbox.events.is_empty() && outbox.waiting.is_empty());
        }
    }
}
