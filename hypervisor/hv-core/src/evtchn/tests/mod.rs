//! Properties of event channels: the table by itself, and both ABIs with a guest that consumes as Linux does.

mod fifo;
mod hostile;
mod table;
mod two_level;

use super::testing::TestFrame;
use super::*;

type Channels = EventChannels<TestFrame>;

const DOM: DomId = DomId::DOM0;
const VCPUS: u16 = 2;
const ALL_PORTS: u32 = u32::MAX;

fn domid(raw: u16) -> DomId {
    DomId::new(raw).expect("not a reserved number")
}

/// A connection whose ends are both in `channels`: sending to the first raises the second.
fn loopback(channels: &mut Channels) -> (Port, Port) {
    let far = channels.alloc_unbound(DOM).expect("a free port");
    let (near, _) = channels.bind_loopback(far).expect("it waits for us");
    (near, far)
}

fn here(sent: Result<Sent, Error>) -> Notify {
    match sent {
        Ok(Sent::Here(notify)) => notify,
        other => panic!("not an event of the domain itself: {other:?}"),
    }
}
