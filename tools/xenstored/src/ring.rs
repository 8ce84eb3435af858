//! A domain's ring, served so that neither the domain nor our own death can confuse it.
//!
//! The indices that are ours (consumer of requests, producer of replies) are kept here and only written to the page;
//! the domain's are read once and checked. Requests are taken over in two steps: [`Ring::take`] copies them out, and
//! [`Ring::publish`] moves the consumer only after the journal holds what they did. So a request is served exactly
//! once, even if the daemon dies in between.
//!
//! Source: `docs/misc/xenstore-ring.txt`, `public/io/xs_wire.h`.

use std::{mem::offset_of, sync::atomic::Ordering};

use guest_abi::io::xs_wire::{
    XENSTORE_CONNECTED, XENSTORE_ERROR_NONE, XENSTORE_ERROR_PROTO, XENSTORE_ERROR_RINGIDX,
    XENSTORE_RECONNECT, XENSTORE_RING_SIZE, XENSTORE_SERVER_FEATURE_ERROR,
    XENSTORE_SERVER_FEATURE_RECONNECTION, XENSTORE_SERVER_FEATURE_WATCHDEPTH,
    XenstoreDomainInterface as Page,
};
use xenstore::wire::{Inbox, Message};

use crate::devices::RingPage;

const FEATURES: u32 = XENSTORE_SERVER_FEATURE_RECONNECTION
    | XENSTORE_SERVER_FEATURE_ERROR
    | XENSTORE_SERVER_FEATURE_WATCHDEPTH;
/// Bytes of each direction.
#[expect(clippy::cast_possible_truncation, reason = "1024")]
const SIZE: u32 = XENSTORE_RING_SIZE as u32;

/// The domain broke the rules: it is served no more until it reconnects. The page says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Indices that cannot be.
    Indices,
    /// A message over the limit.
    TooLong,
}

/// One domain's ring.
#[derive(Debug)]
pub(crate) struct Ring {
    page: Box<dyn RingPage>,
    /// Request bytes taken over.
    requests: u32,
    /// Request bytes that the domain was told are taken over.
    published: u32,
    inbox: Inbox,
    is_broken: bool,
}

impl Ring {
    /// Takes a page whose both directions are to start empty.
    pub(crate) fn fresh(page: Box<dyn RingPage>) -> Self {
        let mut ring = Self::over(page);
        ring.restart();
        ring
    }

    /// Takes a page as it is; tells where the producer of replies stands.
    pub(crate) fn going_on(page: Box<dyn RingPage>) -> (Self, u32) {
        let ring = Self::over(page);
        ring.offer();
        let sent = ring.load(offset_of!(Page, rsp_prod));
        (ring, sent)
    }

    fn over(page: Box<dyn RingPage>) -> Self {
        let mut ring = Self {
            page,
            requests: 0,
            published: 0,
            inbox: Inbox::default(),
            is_broken: false,
        };
        ring.requests = ring.load(offset_of!(Page, req_cons));
        ring.published = ring.requests;
        ring
    }

    /// Goes on where a former daemon's journal ended.
    pub(crate) fn resume(&mut self, requests: u32, partial: &[u8]) {
        self.requests = requests;
        self.inbox.clear();
        self.inbox.push(partial);
    }

    /// Returns the index of the first request byte not taken over, and the start of an incomplete request.
    pub(crate) fn progress(&self) -> (u32, &[u8]) {
        (self.requests, self.inbox.pending())
    }

    /// Tells whether the domain asks to start anew.
    pub(crate) fn wants_reconnect(&self) -> bool {
        self.load(offset_of!(Page, connection)) == XENSTORE_RECONNECT
    }

    /// Empties both directions; a domain that waits for it is let go on.
    pub(crate) fn restart(&mut self) {
        for index in [
            offset_of!(Page, req_cons),
            offset_of!(Page, req_prod),
            offset_of!(Page, rsp_cons),
            offset_of!(Page, rsp_prod),
        ] {
            self.store(index, 0);
        }
        (self.requests, self.published) = (0, 0);
        self.inbox.clear();
        self.is_broken = false;
        self.store(offset_of!(Page, error), XENSTORE_ERROR_NONE);
        self.offer();
        if self.wants_reconnect() {
            self.store(offset_of!(Page, connection), XENSTORE_CONNECTED);
        }
    }

    /// Takes over what the domain has sent, unless a whole request waits already.
    ///
    /// # Errors
    /// Indices that cannot be.
    pub(crate) fn take(&mut self) -> Result<(), Broken> {
        if self.is_broken {
            return Ok(());
        }
        let prod = self.load(offset_of!(Page, req_prod));
        let count = prod.wrapping_sub(self.requests);
        // What is not published yet still takes its room.
        if prod.wrapping_sub(self.published) > SIZE || count > SIZE {
            return Err(self.break_off(Broken::Indices));
        }
        let mut bytes = [0; XENSTORE_RING_SIZE];
        let bytes = bytes.get_mut(..index(count)).unwrap_or_default();
        let start = index(self.requests % SIZE);
        let first = bytes.len().min(XENSTORE_RING_SIZE - start);
        let (head, tail) = bytes.split_at_mut(first);
        let base = offset_of!(Page, req);
        self.page.page().read(base + start, head);
        self.page.page().read(base, tail);
        self.inbox.push(bytes);
        self.requests = prod;
        Ok(())
    }

    /// Takes the next whole request.
    ///
    /// # Errors
    /// It is longer than allowed.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, Broken> {
        let next = self.inbox.pop();
        next.map_err(|_| self.break_off(Broken::TooLong))
    }

    /// Tells whether a request has arrived whole (or is too long), so that [`Ring::next`] has something to say.
    pub(crate) fn has_request(&self) -> bool {
        !self.is_broken && self.inbox.has_message()
    }

    /// Tells whether there is something to serve: a whole request, or bytes that came since [`Ring::take`].
    pub(crate) fn has_more(&self) -> bool {
        let has_new = || self.load(offset_of!(Page, req_prod)) != self.requests;
        self.has_request() || !self.is_broken && has_new()
    }

    /// Tells the domain what was taken over; true if that is news.
    pub(crate) fn publish(&mut self) -> bool {
        let is_news = self.published != self.requests;
        if is_news {
            self.published = self.requests;
            self.store(offset_of!(Page, req_cons), self.requests);
        }
        is_news
    }

    /// Copies replies into the ring from index `sent` on, as far as there is room; returns how many bytes.
    ///
    /// # Errors
    /// Indices that cannot be.
    pub(crate) fn put(&mut self, sent: u32, replies: &[u8]) -> Result<usize, Broken> {
        if self.is_broken {
            return Ok(0);
        }
        let unread = sent.wrapping_sub(self.load(offset_of!(Page, rsp_cons)));
        let Some(room) = SIZE.checked_sub(unread) else {
            return Err(self.break_off(Broken::Indices));
        };
        let fits = replies.get(..index(room)).unwrap_or(replies);
        if fits.is_empty() {
            return Ok(0);
        }
        let start = index(sent % SIZE);
        let (head, tail) = fits.split_at(fits.len().min(XENSTORE_RING_SIZE - start));
        let base = offset_of!(Page, rsp);
        self.page.page().write(base + start, head);
        self.page.page().write(base, tail);
        let count = u32::try_from(fits.len()).expect("no more than the ring holds");
        self.store(offset_of!(Page, rsp_prod), sent.wrapping_add(count));
        Ok(fits.len())
    }

    fn offer(&self) {
        self.store(offset_of!(Page, server_features), FEATURES);
    }

    fn break_off(&mut self, why: Broken) -> Broken {
        self.is_broken = true;
        self.inbox.clear();
        let code = match why {
            Broken::Indices => XENSTORE_ERROR_RINGIDX,
            Broken::TooLong => XENSTORE_ERROR_PROTO,
        };
        self.store(offset_of!(Page, error), code);
        why
    }

    fn load(&self, offset: usize) -> u32 {
        self.page.page().load_u32(offset, Ordering::SeqCst)
    }

    fn store(&self, offset: usize, value: u32) {
        self.page.page().store_u32(offset, value, Ordering::SeqCst);
    }
}

fn index(word: u32) -> usize {
    usize::try_from(word).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use xendev::MappedPages;

    use super::*;

    impl RingPage for Rc<MappedPages> {
        fn page(&self) -> &MappedPages {
            self
        }
    }

    fn ring() -> (Ring, Rc<MappedPages>) {
        let page = Rc::new(MappedPages::anonymous(1).unwrap());
        (Ring::fresh(Box::new(Rc::clone(&page))), page)
    }

    fn set(page: &MappedPages, offset: usize, value: u32) {
        page.store_u32(offset, value, Ordering::SeqCst);
    }

    fn get(page: &MappedPages, offset: usize) -> u32 {
        page.load_u32(offset, Ordering::SeqCst)
    }

    #[test]
    fn impossible_indices_break_the_ring_until_it_reconnects() {
        let (mut ring, page) = ring();
        set(&page, offset_of!(Page, req_prod), 1025);
        assert_eq!(ring.take(), Err(Broken::Indices));
        assert_eq!(get(&page, offset_of!(Page, error)), XENSTORE_ERROR_RINGIDX);
        set(&page, offset_of!(Page, req_prod), 16);
        assert_eq!(ring.take(), Ok(()));
        assert!(!ring.has_request());
        set(&page, offset_of!(Page, connection), XENSTORE_RECONNECT);
        assert!(ring.wants_reconnect());
        ring.restart();
        assert!(!ring.wants_reconnect());
        assert_eq!(get(&page, offset_of!(Page, error)), XENSTORE_ERROR_NONE);
        assert_eq!(get(&page, offset_of!(Page, req_prod)), 0);
    }

    #[test]
    fn indices_of_ours_that_the_domain_writes_are_not_believed() {
        let (mut ring, page) = ring();
        set(&page, offset_of!(Page, rsp_prod), 999);
        set(&page, offset_of!(Page, req_cons), 999);
        assert_eq!(ring.put(0, b"abc"), Ok(3));
        assert_eq!(get(&page, offset_of!(Page, rsp_prod)), 3);
        assert_eq!(ring.take(), Ok(()));
        set(&page, offset_of!(Page, rsp_cons), 4);
        assert_eq!(ring.put(3, b"abc"), Err(Broken::Indices));
    }

    #[test]
    fn the_ring_wraps_and_fills_up() {
        let (mut ring, page) = ring();
        let at = u32::MAX - 9;
        set(&page, offset_of!(Page, rsp_cons), at);
        let bytes: Vec<u8> = (0..2000u32).map(|n| n.to_le_bytes()[0]).collect();
        assert_eq!(ring.put(at, &bytes), Ok(1024));
        assert_eq!(ring.put(at.wrapping_add(1024), &bytes), Ok(0));
        let mut seen = vec![0; 1024];
        page.read(offset_of!(Page, rsp), &mut seen);
        let start = index(at % SIZE);
        assert_eq!(seen[start], bytes[0]);
        assert_eq!(seen[start - 1], bytes[1023]);
    }
}
