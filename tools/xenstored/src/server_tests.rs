//! The loop with clients of its own process, each turn on demand.

use xenstore::{Kind, wire};

use super::*;
use crate::devices::NoDevices;
use crate::quota::Quotas;

struct Bench {
    server: Server,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listeners = listen(std::slice::from_ref(&path)).unwrap();
        let engine = Engine::start(Quotas::default(), Box::new(NoDevices), None, false).unwrap();
        let signals = Signals::take_over().unwrap();
        Self {
            server: Server::new(engine, listeners, signals).unwrap(),
            path,
            _directory: directory,
        }
    }

    fn connect(&mut self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        let before = self.server.clients.len();
        while self.server.clients.len() == before {
            self.server.turn(true).unwrap();
        }
        stream
    }

    /// Asks, and has turns until the answer is there.
    fn ask(&mut self, stream: &mut UnixStream, kind: Kind, payload: &[u8]) -> wire::Message {
        let (mut request, mut inbox) = (Vec::new(), Inbox::default());
        wire::encode(&mut request, kind.number(), 7, 0, &[payload]).unwrap();
        stream.write_all(&request).unwrap();
        self.server.turn(false).unwrap();
        let mut buffer = [0; 8192];
        loop {
            let count = stream.read(&mut buffer).unwrap();
            inbox.push(&buffer[..count]);
            let all = std::iter::from_fn(|| inbox.pop().unwrap());
            if let Some(reply) = all.into_iter().find(|message| message.req_id == 7) {
                return reply;
            }
        }
    }

    /// Two clients, the first of which has left much unread of what the second did.
    fn with_unread(&mut self) -> (UnixStream, UnixStream) {
        let (mut slow, mut busy) = (self.connect(), self.connect());
        self.ask(&mut slow, Kind::Watch, b"/n\0t\0");
        for n in 0..2500 {
            let path = format!("/n/{n}{}\0", "x".repeat(60));
            self.ask(&mut busy, Kind::Write, path.as_bytes());
        }
        (slow, busy)
    }

    /// Returns the clients looked at and the bytes allocated for some requests of one client.
    fn work_of(&mut self, stream: &mut UnixStream) -> (usize, u64) {
        let before = self.server.looks;
        let allocated = allocation_counter::measure(|| {
            for _ in 0..100 {
                self.ask(stream, Kind::Write, b"/busy\0value");
                self.ask(stream, Kind::Read, b"/busy\0");
            }
        });
        (self.server.looks - before, allocated.bytes_total)
    }
}

#[test]
fn idle_clients_cost_the_others_nothing() {
    let mut bench = Bench::new();
    let mut busy = bench.connect();
    bench.work_of(&mut busy);
    let alone = bench.work_of(&mut busy);
    let mut idle = Vec::new();
    for n in 0..200 {
        let mut client = bench.connect();
        bench.ask(
            &mut client,
            Kind::Watch,
            format!("/idle/{n}\0t\0").as_bytes(),
        );
        idle.push(client);
    }
    let (looks, allocated) = bench.work_of(&mut busy);
    assert_eq!(looks, alone.0);
    assert!(
        allocated <= alone.1 + alone.1 / 10,
        "{allocated} bytes beside {}",
        alone.1
    );
    assert_eq!(looks, 200);
}

#[test]
fn a_client_that_left_much_unread_goes_on_when_it_reads() {
    let mut bench = Bench::new();
    let (mut slow, _busy) = bench.with_unread();
    let id = *bench.server.clients.keys().next().unwrap();
    assert!(bench.server.engine.core.is_behind(id));
    slow.set_nonblocking(true).unwrap();
    let (mut inbox, mut events) = (Inbox::default(), 0);
    while events < 2500 {
        let mut buffer = [0; 65536];
        if let Ok(count) = slow.read(&mut buffer) {
            inbox.push(&buffer[..count]);
        }
        let all = std::iter::from_fn(|| inbox.pop().unwrap());
        events += all
            .filter(|message| message.kind == Kind::WatchEvent.number())
            .count();
        bench.server.turn(true).unwrap();
    }
    slow.set_nonblocking(false).unwrap();
    assert_eq!(
        bench
            .ask(&mut slow, Kind::Read, b"/tool/xenstored\0")
            .payload,
        b""
    );
}

#[test]
fn a_client_that_goes_while_much_is_unread_is_dropped() {
    let mut bench = Bench::new();
    let (slow, _busy) = bench.with_unread();
    drop(slow);
    for _ in 0..3 {
        bench.server.turn(true).unwrap();
    }
    assert_eq!(bench.server.clients.len(), 1);
    assert_eq!(bench.server.engine.core.conns.len(), 1);
}
