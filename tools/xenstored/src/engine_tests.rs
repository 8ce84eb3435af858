//! Guests that talk over rings, and a daemon that dies at any moment.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    mem::offset_of,
    os::fd::BorrowedFd,
    rc::Rc,
    sync::atomic::Ordering,
};

use guest_abi::io::xs_wire::{XENSTORE_RECONNECT, XenstoreDomainInterface as Page};
use proptest::prelude::*;
use xendev::{MappedPages, evtchn::Port};
use xenstore::{Kind, wire};

use super::*;
use crate::devices::RingPage;

const GUEST: Domid = 3;

/// A host with dom0 and one guest, whose pages outlive the daemon.
#[derive(Clone, Debug, Default)]
struct Host {
    pages: Rc<RefCell<BTreeMap<Domid, Rc<MappedPages>>>>,
    gone: Rc<Cell<bool>>,
    notified: Rc<Cell<usize>>,
}

impl Host {
    fn page(&self, domid: Domid) -> Rc<MappedPages> {
        let mut pages = self.pages.borrow_mut();
        let new = || Rc::new(MappedPages::anonymous(1).unwrap());
        Rc::clone(pages.entry(domid).or_insert_with(new))
    }
}

impl Devices for Host {
    fn map(&self, domid: Domid, _gfn: u64) -> Result<Box<dyn RingPage>, Error> {
        Ok(Box::new(self.page(domid)))
    }

    fn map_own(&self) -> Result<(Box<dyn RingPage>, Port), Error> {
        Ok((Box::new(self.page(0)), 1))
    }

    fn bind(&self, domid: Domid, _port: Port) -> Result<Port, Error> {
        Ok(100 + Port::from(domid))
    }

    fn unbind(&self, _port: Port) {}

    fn notify(&self, _port: Port) {
        self.notified.set(self.notified.get() + 1);
    }

    fn fired(&self, _ports: &mut Vec<Port>) -> Result<(), Error> {
        Ok(())
    }

    fn ends(&self) -> Option<Port> {
        None
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn state(&self, _domid: Domid) -> State {
        if self.gone.get() {
            State::Gone
        } else {
            State::Alive
        }
    }
}

/// The guest's side of its ring, as Linux does it.
struct Guest {
    page: Rc<MappedPages>,
    unsent: VecDeque<u8>,
    inbox: wire::Inbox,
}

impl Guest {
    fn new(page: Rc<MappedPages>) -> Self {
        Self {
            page,
            unsent: VecDeque::new(),
            inbox: wire::Inbox::default(),
        }
    }

    fn ask(&mut self, id: u32, kind: Kind, payload: &[u8]) {
        let mut bytes = Vec::new();
        wire::encode(&mut bytes, kind.number(), id, 0, &[payload]).unwrap();
        self.unsent.extend(bytes);
    }

    fn word(&self, offset: usize) -> u32 {
        self.page.load_u32(offset, Ordering::SeqCst)
    }

    fn set(&self, offset: usize, value: u32) {
        self.page.store_u32(offset, value, Ordering::SeqCst);
    }

    /// Sends and receives at most `most` bytes each way.
    fn run(&mut self, most: u32) {
        let (cons, prod) = (
            self.word(offset_of!(Page, req_cons)),
            self.word(offset_of!(Page, req_prod)),
        );
        let room = 1024 - prod.wrapping_sub(cons);
        let mut at = prod;
        for _ in 0..room.min(most) {
            let Some(byte) = self.unsent.pop_front() else {
                break;
            };
            self.page
                .write(offset_of!(Page, req) + (at % 1024) as usize, &[byte]);
            at = at.wrapping_add(1);
        }
        self.set(offset_of!(Page, req_prod), at);
        let (mut at, end) = (
            self.word(offset_of!(Page, rsp_cons)),
            self.word(offset_of!(Page, rsp_prod)),
        );
        assert!(end.wrapping_sub(at) <= 1024);
        for _ in 0..end.wrapping_sub(at).min(most) {
            let mut byte = [0];
            self.page
                .read(offset_of!(Page, rsp) + (at % 1024) as usize, &mut byte);
            self.inbox.push(&byte);
            at = at.wrapping_add(1);
        }
        self.set(offset_of!(Page, rsp_cons), at);
    }

    /// Takes what has arrived: the ids of replies, "!" before refusals, and events' paths.
    fn heard(&mut self) -> Vec<String> {
        let all = std::iter::from_fn(|| self.inbox.pop().unwrap());
        all.map(|m| match Kind::from_number(m.kind) {
            Some(Kind::WatchEvent) => String::from_utf8(m.payload).unwrap().replace('\0', "|"),
            Some(Kind::Error) => format!("!{}", m.req_id),
            _ => m.req_id.to_string(),
        })
        .collect()
    }
}

fn start(host: &Host, path: &Path) -> Engine {
    let journal = JournalOptions {
        path: path.to_owned(),
        recovers: true,
    };
    Engine::start(
        Quotas::default(),
        Box::new(host.clone()),
        Some(&journal),
        true,
    )
    .unwrap()
}

/// Introduces the guest, whose home is open to it.
fn introduce(engine: &mut Engine) {
    let dom0 = engine.core.domains[&0].conn;
    for (kind, payload) in [
        (Kind::Write, "/local/domain/3\0"),
        (Kind::SetPerms, "/local/domain/3\0n3\0"),
        (Kind::Introduce, "3\x00100\x005\0"),
    ] {
        let payload = payload.as_bytes().to_vec();
        let message = wire::Message {
            kind: kind.number(),
            req_id: 1,
            tx_id: 0,
            payload,
        };
        engine.core.handle(&mut engine.rings, dom0, &message);
    }
    engine.write_journal();
    engine.answer_rings();
}

fn round(engine: &mut Engine) {
    engine.rings.active.extend([0, GUEST]);
    engine.serve_rings();
    engine.write_journal();
    engine.answer_rings();
}

#[test]
fn a_guest_is_answered_over_its_ring() {
    let (host, directory) = (Host::default(), tempfile::tempdir().unwrap());
    let mut engine = start(&host, &directory.path().join("journal"));
    introduce(&mut engine);
    let mut guest = Guest::new(host.page(GUEST));
    guest.ask(1, Kind::Watch, b"data\0t\0");
    guest.ask(
        2,
        Kind::Write,
        &[b"data/x\0", vec![b'v'; 1500].as_slice()].concat(),
    );
    for _ in 0..8 {
        guest.run(1024);
        round(&mut engine);
    }
    guest.run(1024);
    assert_eq!(guest.heard(), ["1", "data|t|", "2", "data/x|t|"]);
}

#[test]
fn a_guest_that_breaks_its_ring_is_alone_with_that() {
    let (host, directory) = (Host::default(), tempfile::tempdir().unwrap());
    let mut engine = start(&host, &directory.path().join("journal"));
    introduce(&mut engine);
    let mut dom0 = Guest::new(host.page(0));
    let mut guest = Guest::new(host.page(GUEST));
    dom0.run(4096);
    dom0.heard();
    guest.set(offset_of!(Page, req_prod), 5000);
    dom0.ask(7, Kind::Read, b"/tool\0");
    dom0.run(1024);
    round(&mut engine);
    dom0.run(1024);
    assert_eq!(dom0.heard(), ["7"]);
    assert_eq!(guest.word(offset_of!(Page, error)), 2);
    guest.set(offset_of!(Page, connection), XENSTORE_RECONNECT);
    round(&mut engine);
    assert_eq!(guest.word(offset_of!(Page, connection)), 0);
    guest.ask(1, Kind::Write, b"data\0v");
    guest.run(1024);
    round(&mut engine);
    guest.run(1024);
    assert_eq!(guest.heard(), ["1"]);
}

#[test]
fn a_restart_releases_the_guests_that_are_gone() {
    let (host, directory) = (Host::default(), tempfile::tempdir().unwrap());
    let path = directory.path().join("journal");
    let mut engine = start(&host, &path);
    introduce(&mut engine);
    drop(engine);
    host.gone.set(true);
    let engine = start(&host, &path);
    assert!(!engine.core.domains.contains_key(&GUEST));
    assert!(engine.core.tree.get("/local/domain/3").is_none());
    assert!(engine.core.tree.get("/tool/xenstored").is_some());
}

/// When the daemon is killed in a round.
#[derive(Clone, Copy, Debug)]
enum Kill {
    Never,
    BeforeJournal,
    BeforeAnswers,
    After,
}

fn any_kill() -> impl Strategy<Value = Kill> {
    prop_oneof![
        4 => Just(Kill::Never),
        1 => Just(Kill::BeforeJournal),
        1 => Just(Kill::BeforeAnswers),
        1 => Just(Kill::After),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is killed when, each request is answered once, in order, and each change is told.
    #[test]
    fn a_guest_does_not_notice_that_the_daemon_dies(
        lens in prop::collection::vec(0usize..1900, 1..8),
        steps in prop::collection::vec((any_kill(), 1u32..1024), 10..60),
    ) {
        let (host, directory) = (Host::default(), tempfile::tempdir().unwrap());
        let path = directory.path().join("journal");
        let mut engine = start(&host, &path);
        introduce(&mut engine);
        let mut guest = Guest::new(host.page(GUEST));
        guest.ask(1, Kind::Watch, b"d\0t\0");
        let mut expected = vec!["1".to_owned(), "d|t|".to_owned()];
        for (n, len) in lens.iter().enumerate() {
            let id = u32::try_from(n).unwrap() + 2;
            let path = format!("d/{n}");
            guest.ask(id, Kind::Write, &[path.as_bytes(), b"\0", &vec![b'v'; *len]].concat());
            expected.push(id.to_string());
            expected.push(format!("{path}|t|"));
        }
        let rest = std::iter::repeat_n((Kill::Never, 1024), 60);
        let mut heard = Vec::new();
        for (kill, most) in steps.into_iter().chain(rest) {
            guest.run(most);
            engine.rings.active.extend([0, GUEST]);
            engine.serve_rings();
            if !matches!(kill, Kill::BeforeJournal) {
                engine.write_journal();
                if !matches!(kill, Kill::BeforeAnswers) {
                    engine.answer_rings();
                }
            }
            if !matches!(kill, Kill::Never) {
                drop(engine);
                engine = start(&host, &path);
            }
            heard.extend(guest.heard());
        }
        prop_assert_eq!(heard, expected);
        for (n, len) in lens.iter().enumerate() {
            let node = engine.core.tree.get(&format!("/local/domain/3/d/{n}")).unwrap();
            prop_assert_eq!(node.value.len(), *len);
        }
    }
}

#[test]
fn a_journal_that_cannot_be_written_is_not_there_for_the_next_daemon() {
    let (host, directory) = (Host::default(), tempfile::tempdir().unwrap());
    let path = directory.path().join("journal");
    let mut engine = start(&host, &path);
    introduce(&mut engine);
    // Neither append nor a new file.
    engine.journal.as_mut().unwrap().fail_appends();
    std::fs::create_dir(path.with_extension("new")).unwrap();
    let mut guest = Guest::new(host.page(GUEST));
    guest.ask(1, Kind::Write, b"data\0v");
    guest.run(1024);
    round(&mut engine);
    guest.run(1024);
    assert_eq!(guest.heard(), ["1"]);
    assert!(!path.exists());
}

#[path = "engine_race_tests.rs"]
mod races;
