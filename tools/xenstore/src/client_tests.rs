//! The client against scripted answers.

use std::thread;

use super::*;

/// Answers each request with what the closure says, on the other end of a new connection.
fn served(
    mut answer: impl FnMut(Message, &mut Vec<u8>) + Send + 'static,
) -> (Store, thread::JoinHandle<()>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        let (mut inbox, mut buffer) = (Inbox::default(), [0; 8192]);
        while let Ok(count @ 1..) = theirs.read(&mut buffer) {
            inbox.push(&buffer[..count]);
            while let Some(message) = inbox.pop().unwrap() {
                let mut out = Vec::new();
                answer(message, &mut out);
                theirs.write_all(&out).unwrap();
            }
        }
    });
    (Store::from_stream(ours), server)
}

fn reply(out: &mut Vec<u8>, to: &Message, payload: &[u8]) {
    wire::encode(out, to.kind, to.req_id, to.tx_id, &[payload]).unwrap();
}

fn refuse(out: &mut Vec<u8>, to: &Message, name: &[u8]) {
    wire::encode(out, Kind::Error.number(), to.req_id, to.tx_id, &[name]).unwrap();
}

#[test]
fn events_between_request_and_reply_are_kept() {
    let (store, _server) = served(|m, out| {
        wire::encode(out, Kind::WatchEvent.number(), 0, 0, &[b"/a\0tok\0"]).unwrap();
        reply(out, &m, b"value");
    });
    assert_eq!(store.read("/a").unwrap(), b"value");
    let event = store.next_event(Some(Duration::ZERO)).unwrap().unwrap();
    assert_eq!((event.path.as_str(), event.token.as_str()), ("/a", "tok"));
    let none = store.next_event(Some(Duration::from_millis(5))).unwrap();
    assert_eq!(none, None);
}

#[test]
fn a_refusal_names_request_path_and_reason() {
    let (store, _server) = served(|m, out| refuse(out, &m, b"ENOENT\0"));
    let error = store.read("/no").unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(
        error.to_string(),
        "xenstore READ /no: No such file or directory (ENOENT)"
    );
    assert_eq!(store.read_opt("/no").unwrap(), None);
    assert!(!store.exists("/no").unwrap());
}

#[test]
fn a_transaction_runs_again_after_a_conflict() {
    let mut ends = 0;
    let (store, _server) = served(move |m, out| match Kind::from_number(m.kind) {
        Some(Kind::TransactionStart) => reply(out, &m, b"7\0"),
        Some(Kind::TransactionEnd) if ends == 0 => {
            ends += 1;
            refuse(out, &m, b"EAGAIN\0");
        }
        _ => {
            assert_eq!(m.tx_id, 7);
            reply(out, &m, b"OK\0");
        }
    });
    let mut runs = 0;
    let result: Result<()> = store.transaction(|tx| {
        runs += 1;
        tx.write("/a", "1")
    });
    result.unwrap();
    assert_eq!(runs, 2);
}

#[test]
fn a_transaction_that_always_conflicts_is_given_up() {
    let (store, _server) = served(|m, out| match Kind::from_number(m.kind) {
        Some(Kind::TransactionStart) => reply(out, &m, b"7\0"),
        _ => refuse(out, &m, b"EAGAIN\0"),
    });
    let mut runs = 0;
    let result: Result<()> = store.transaction(|_| {
        runs += 1;
        Ok(())
    });
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Conflicts));
    assert!(error.to_string().contains("keeps changing"));
    assert_eq!(runs, MOST_ATTEMPTS);
}

#[test]
fn a_dropped_transaction_is_aborted() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (store, _server) = served(move |m, out| {
        let payload: &[u8] = match Kind::from_number(m.kind) {
            Some(Kind::TransactionStart) => b"3\0",
            _ => b"OK\0",
        };
        reply(out, &m, payload);
        sender.send((m.kind, m.payload)).unwrap();
    });
    drop(store.begin().unwrap());
    let start = receiver.recv().unwrap();
    assert_eq!(start.0, Kind::TransactionStart.number());
    let end = receiver.recv().unwrap();
    assert_eq!(end, (Kind::TransactionEnd.number(), b"F\0".to_vec()));
}

#[test]
fn a_long_directory_is_read_in_parts_and_anew_when_it_changed() {
    let mut asked = 0;
    let (store, _server) = served(move |m, out| {
        if m.kind == Kind::Directory.number() {
            return refuse(out, &m, b"E2BIG\0");
        }
        asked += 1;
        let expected: (&[u8], &[u8]) = match asked {
            1 => (b"/d\x000\0", b"5\0old\0"),
            2 => (b"/d\x004\0", b"6\0x\0\0"),
            3 => (b"/d\x000\0", b"6\0one\0two\0"),
            _ => (b"/d\x008\0", b"6\0three\0\0"),
        };
        assert_eq!(m.payload, expected.0);
        reply(out, &m, expected.1);
    });
    assert_eq!(store.directory("/d").unwrap(), ["one", "two", "three"]);
}

#[test]
fn requests_over_the_limit_are_not_sent() {
    let (store, _server) = served(|_, _| panic!("nothing may be sent"));
    let error = store.write("/a", vec![b'x'; 4094]).unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }));
}

#[test]
fn a_closed_connection_is_told() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let store = Store::from_stream(ours);
    assert!(store.next_event(None).is_err());
}

#[test]
fn connecting_to_nothing_names_each_path() {
    let error = Store::open_at(Path::new("/nonexistent/socket")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/nonexistent/socket") && text.contains("is it running"));
}
