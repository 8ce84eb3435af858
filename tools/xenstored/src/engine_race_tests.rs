//! A guest that runs at the same time, and sends and awaits events as sparingly as Linux does.
//!
//! It may act at each access of ours to its page. What is asked here: once neither side has a reason to act, nothing
//! is left to do.

use super::*;

/// A page at each access of which something happens.
struct Racing {
    page: Rc<MappedPages>,
    happens: Rc<dyn Fn()>,
}

impl std::fmt::Debug for Racing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Racing")
    }
}

impl RingPage for Racing {
    fn page(&self) -> &MappedPages {
        (self.happens)();
        &self.page
    }
}

/// A guest with the events between it and us.
struct Sparing {
    guest: Guest,
    /// How many bytes it moves at its turns; 0: it sleeps through one.
    turns: VecDeque<u32>,
    notified: Rc<Cell<usize>>,
    /// Events of ours that it has seen.
    seen: usize,
    is_awake: bool,
    /// It has sent an event that we have not received.
    has_told: bool,
}

impl Sparing {
    /// Has a turn, if it is awake or woken; as `xb_write` and `xb_read` of Linux's xenbus_comms.c.
    fn act(&mut self) {
        if self.seen != self.notified.get() {
            self.seen = self.notified.get();
            self.is_awake = true;
        }
        let most = self.turns.pop_front().unwrap_or(1024);
        if !self.is_awake || most == 0 {
            return;
        }
        let word = |name| self.guest.word(name);
        let (sent, read) = (
            word(offset_of!(Page, req_prod)),
            word(offset_of!(Page, rsp_cons)),
        );
        self.guest.run(most);
        let word = |name| self.guest.word(name);
        let has_sent = word(offset_of!(Page, req_prod)) != sent;
        let has_read = word(offset_of!(Page, rsp_cons)) != read;
        self.has_told |= has_sent && sent <= word(offset_of!(Page, req_cons));
        self.has_told |= has_read && word(offset_of!(Page, rsp_prod)).wrapping_sub(read) >= 1024;
        self.is_awake = has_sent || has_read;
    }
}

/// Serves the guest's `requests` as the main loop does, on events only, until both sides sleep; returns what it heard.
fn converse(requests: &[(Kind, Vec<u8>)], turns: Vec<u32>) -> Vec<String> {
    let (host, directory) = (Host::default(), tempfile::tempdir().unwrap());
    let sparing = Rc::new(RefCell::new(Sparing {
        guest: Guest::new(host.page(GUEST)),
        turns: VecDeque::new(),
        notified: Rc::clone(&host.notified),
        seen: 0,
        is_awake: true,
        has_told: false,
    }));
    let mut engine = start(&host, &directory.path().join("journal"));
    introduce(&mut engine);
    let other = Rc::clone(&sparing);
    let page = Box::new(Racing {
        page: host.page(GUEST),
        happens: Rc::new(move || other.borrow_mut().act()),
    });
    let ring = crate::ring::Ring::going_on(page).0;
    engine.rings.served.get_mut(&GUEST).unwrap().ring = ring;
    for (id, (kind, payload)) in (1..).zip(requests) {
        sparing.borrow_mut().guest.ask(id, *kind, payload);
    }
    sparing.borrow_mut().turns = turns.into();
    sparing.borrow_mut().is_awake = true;
    loop {
        sparing.borrow_mut().act();
        let has_told = std::mem::take(&mut sparing.borrow_mut().has_told);
        if has_told {
            engine.rings.active.insert(GUEST);
        }
        if has_told || engine.has_more() {
            engine.serve_rings();
            engine.write_journal();
            engine.answer_rings();
        } else if !sparing.borrow().is_awake && sparing.borrow().seen == host.notified.get() {
            break sparing.borrow_mut().guest.heard();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// No wake-up is lost, in either direction, whenever the other side acts.
    #[test]
    fn nothing_waits_for_an_event_that_will_not_come(
        lens in prop::collection::vec(0usize..1900, 1..24),
        turns in prop::collection::vec(prop_oneof![3 => Just(0u32), 1 => 1u32..1025], 0..200),
    ) {
        let write = |(n, len): (usize, &usize)| {
            let payload = [format!("d/{n}\0").as_bytes(), &vec![b'v'; *len]].concat();
            (Kind::Write, payload)
        };
        let read = |n: usize| (Kind::Read, format!("d/{n}\0").into_bytes());
        let mut requests: Vec<_> = lens.iter().enumerate().map(write).collect();
        requests.extend((0..lens.len()).map(read));
        let expected: Vec<_> = (1..=requests.len()).map(|id| id.to_string()).collect();
        prop_assert_eq!(converse(&requests, turns), expected);
    }
}
