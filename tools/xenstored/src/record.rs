//! What the journal consists of: one record for each thing that must outlive the daemon.
//!
//! A snapshot is the list of records that makes the present state from nothing, so there is one format and one reader.
//! Numbers are little-endian, byte strings carry their length; frames and checks are the [`crate::journal`]'s.

use std::rc::Rc;

use xenstore::{Domid, Perm};

use crate::node::Perms;
use crate::tree::Op;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A change of the tree.
    Op(Op),
    /// A whole node, after its parents: snapshots only.
    Node {
        path: Rc<str>,
        value: Rc<[u8]>,
        perms: Perms,
    },
    /// A domain is served.
    Introduce { domid: Domid, gfn: u64, port: u32 },
    /// It no longer is.
    Release { domid: Domid },
    /// Whether its shutdown has been told.
    Shutdown { domid: Domid, is_shutdown: bool },
    /// It has another domain's rights as well.
    Target { domid: Domid, target: Domid },
    /// It watches.
    Watch {
        domid: Domid,
        path: Rc<str>,
        token: Rc<[u8]>,
        cut: usize,
        depth: Option<u32>,
    },
    /// It watches no more.
    Unwatch {
        domid: Domid,
        path: Rc<str>,
        token: Rc<[u8]>,
    },
    /// All its watches and transactions are gone.
    Reset { domid: Domid },
    /// It has a transaction under way.
    Begin { domid: Domid, tx: u32 },
    /// It has no longer.
    End { domid: Domid, tx: u32 },
    /// How far its ring was served.
    Ring(RingState),
    /// Who may hear of special events.
    Special { name: Rc<str>, perms: Perms },
    /// A limit other than the default.
    Quota { name: Rc<str>, value: usize },
}

/// How far a domain's ring was served; bytes sent and not read are the ring's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingState {
    pub(crate) domid: Domid,
    /// Index of the first request byte not taken over.
    pub(crate) requests: u32,
    /// The start of a request that has not arrived whole.
    pub(crate) partial: Vec<u8>,
    /// Index of the first reply byte that waits.
    pub(crate) sent: u32,
    /// Index after the last reply byte.
    pub(crate) end: u32,
    /// The newest of those bytes: what was queued since the last record.
    pub(crate) queued: Vec<u8>,
}

impl Record {
    /// Appends the record to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Op(op) => encode_op(op, out),
            Self::Node { path, value, perms } => {
                put(out, 10, &[path.as_bytes(), value]);
                put_perms(out, perms);
            }
            Self::Introduce { domid, gfn, port } => {
                put(out, 11, &[]);
                numbers(out, &[u64::from(*domid), *gfn, u64::from(*port)]);
            }
            Self::Release { domid } => tagged(out, 12, &[u64::from(*domid)]),
            Self::Shutdown { domid, is_shutdown } => {
                tagged(out, 13, &[u64::from(*domid), u64::from(*is_shutdown)]);
            }
            Self::Target { domid, target } => {
                tagged(out, 14, &[u64::from(*domid), u64::from(*target)]);
            }
            Self::Watch {
                domid,
                path,
                token,
                cut,
                depth,
            } => {
                put(out, 15, &[path.as_bytes(), token]);
                let depth = depth.map_or(u64::MAX, u64::from);
                numbers(out, &[u64::from(*domid), *cut as u64, depth]);
            }
            Self::Unwatch { domid, path, token } => {
                put(out, 16, &[path.as_bytes(), token]);
                numbers(out, &[u64::from(*domid)]);
            }
            Self::Reset { domid } => tagged(out, 17, &[u64::from(*domid)]),
            Self::Begin { domid, tx } => tagged(out, 18, &[u64::from(*domid), u64::from(*tx)]),
            Self::End { domid, tx } => tagged(out, 19, &[u64::from(*domid), u64::from(*tx)]),
            Self::Ring(ring) => {
                put(out, 20, &[&ring.partial, &ring.queued]);
                let indices = [ring.requests, ring.sent, ring.end].map(u64::from);
                numbers(out, &[u64::from(ring.domid)]);
                numbers(out, &indices);
            }
            Self::Special { name, perms } => {
                put(out, 21, &[name.as_bytes()]);
                put_perms(out, perms);
            }
            Self::Quota { name, value } => {
                put(out, 22, &[name.as_bytes()]);
                numbers(out, &[*value as u64]);
            }
        }
    }

    /// Takes a record off the front of `from`; `None` if it is malformed.
    pub(crate) fn decode(from: &mut &[u8]) -> Option<Self> {
        let tag = *from.split_off_first()?;
        Some(match tag {
            1..=5 => Self::Op(decode_op(tag, from)?),
            10 => Self::Node {
                path: text(from)?,
                value: bytes(from)?.into(),
                perms: perms(from)?,
            },
            15 => {
                let (path, token) = (text(from)?, bytes(from)?.into());
                let (domid, cut) = (number(from)?, number(from)?);
                let depth = u32::try_from(number::<u64>(from)?).ok();
                Self::Watch {
                    domid,
                    path,
                    token,
                    cut,
                    depth,
                }
            }
            16 => {
                let (path, token) = (text(from)?, bytes(from)?.into());
                let domid = number(from)?;
                Self::Unwatch { domid, path, token }
            }
            20 => Self::Ring(decode_ring(from)?),
            21 => Self::Special {
                name: text(from)?,
                perms: perms(from)?,
            },
            22 => Self::Quota {
                name: text(from)?,
                value: number(from)?,
            },
            _ => decode_of_domain(tag, number(from)?, from)?,
        })
    }
}

/// Reads the records that are a domain and some numbers.
fn decode_of_domain(tag: u8, domid: Domid, from: &mut &[u8]) -> Option<Record> {
    Some(match tag {
        11 => Record::Introduce {
            domid,
            gfn: number(from)?,
            port: number(from)?,
        },
        12 => Record::Release { domid },
        13 => Record::Shutdown {
            domid,
            is_shutdown: number::<u64>(from)? != 0,
        },
        14 => Record::Target {
            domid,
            target: number(from)?,
        },
        17 => Record::Reset { domid },
        18 => Record::Begin {
            domid,
            tx: number(from)?,
        },
        19 => Record::End {
            domid,
            tx: number(from)?,
        },
        _ => return None,
    })
}

fn encode_op(op: &Op, out: &mut Vec<u8>) {
    match op {
        Op::Write {
            path,
            value,
            creator,
        } => {
            put(out, 1, &[path.as_bytes(), value]);
            numbers(out, &[u64::from(*creator)]);
        }
        Op::Mkdir { path, creator } => {
            put(out, 2, &[path.as_bytes()]);
            numbers(out, &[u64::from(*creator)]);
        }
        Op::Rm { path } => put(out, 3, &[path.as_bytes()]),
        Op::SetPerms { path, perms } => {
            put(out, 4, &[path.as_bytes()]);
            put_perms(out, perms);
        }
        Op::Forget { domids } => {
            tagged(out, 5, &[domids.len() as u64]);
            domids
                .iter()
                .for_each(|domid| numbers(out, &[u64::from(*domid)]));
        }
    }
}

fn decode_op(tag: u8, from: &mut &[u8]) -> Option<Op> {
    Some(match tag {
        1 => Op::Write {
            path: text(from)?,
            value: bytes(from)?.into(),
            creator: number(from)?,
        },
        2 => Op::Mkdir {
            path: text(from)?,
            creator: number(from)?,
        },
        3 => Op::Rm { path: text(from)? },
        4 => Op::SetPerms {
            path: text(from)?,
            perms: perms(from)?,
        },
        _ => {
            let count: Domid = number(from)?;
            let domids: Option<_> = (0..count).map(|_| number(from)).collect();
            Op::Forget { domids: domids? }
        }
    })
}

fn decode_ring(from: &mut &[u8]) -> Option<RingState> {
    let (partial, queued) = (bytes(from)?.to_vec(), bytes(from)?.to_vec());
    Some(RingState {
        domid: number(from)?,
        requests: number(from)?,
        sent: number(from)?,
        end: number(from)?,
        partial,
        queued,
    })
}

fn put(out: &mut Vec<u8>, tag: u8, strings: &[&[u8]]) {
    out.push(tag);
    for string in strings {
        numbers(out, &[string.len() as u64]);
        out.extend_from_slice(string);
    }
}

fn tagged(out: &mut Vec<u8>, tag: u8, all: &[u64]) {
    out.push(tag);
    numbers(out, all);
}

fn numbers(out: &mut Vec<u8>, all: &[u64]) {
    for number in all {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn put_perms(out: &mut Vec<u8>, perms: &[Perm]) {
    let list: Vec<_> = perms.iter().map(Perm::to_string).collect();
    let list = list.join(",");
    numbers(out, &[list.len() as u64]);
    out.extend_from_slice(list.as_bytes());
}

fn number<T: TryFrom<u64>>(from: &mut &[u8]) -> Option<T> {
    let (bytes, rest) = from.split_first_chunk::<8>()?;
    *from = rest;
    T::try_from(u64::from_le_bytes(*bytes)).ok()
}

fn bytes<'b>(from: &mut &'b [u8]) -> Option<&'b [u8]> {
    let len: usize = number(from)?;
    from.split_off(..len)
}

fn text(from: &mut &[u8]) -> Option<Rc<str>> {
    str::from_utf8(bytes(from)?).ok().map(Rc::from)
}

fn perms(from: &mut &[u8]) -> Option<Perms> {
    let list = bytes(from)?.split(|byte| *byte == b',');
    list.map(Perm::parse).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_path() -> impl Strategy<Value = Rc<str>> {
        "(/[ab]){1,3}".prop_map(|path| Rc::<str>::from(path.as_str()))
    }

    fn any_bytes() -> impl Strategy<Value = Rc<[u8]>> {
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Rc::<[u8]>::from)
    }

    fn any_perms() -> impl Strategy<Value = Perms> {
        let one = ("[nrwb]", any::<u16>()).prop_map(|(letter, domid)| {
            Perm::parse(format!("{letter}{domid}").as_bytes()).unwrap()
        });
        prop::collection::vec(one, 1..4).prop_map(Perms::from)
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let domid = any::<Domid>;
        let domids = prop::collection::vec(domid(), 0..4).prop_map(Rc::<[Domid]>::from);
        prop_oneof![
            (any_path(), any_bytes(), domid()).prop_map(|(path, value, creator)| Op::Write {
                path,
                value,
                creator
            }),
            (any_path(), domid()).prop_map(|(path, creator)| Op::Mkdir { path, creator }),
            any_path().prop_map(|path| Op::Rm { path }),
            (any_path(), any_perms()).prop_map(|(path, perms)| Op::SetPerms { path, perms }),
            domids.prop_map(|domids| Op::Forget { domids }),
        ]
    }

    fn any_watch() -> impl Strategy<Value = Record> {
        let depth = prop::option::of(0u32..9);
        let watch = (any::<Domid>(), any_path(), any_bytes(), 0usize..9, depth);
        watch.prop_map(|(domid, path, token, cut, depth)| Record::Watch {
            domid,
            path,
            token,
            cut,
            depth,
        })
    }

    fn any_ring() -> impl Strategy<Value = RingState> {
        let ring = (any::<Domid>(), any::<[u32; 3]>(), any_bytes(), any_bytes());
        ring.prop_map(
            |(domid, [requests, sent, end], partial, queued)| RingState {
                domid,
                requests,
                sent,
                end,
                partial: partial.to_vec(),
                queued: queued.to_vec(),
            },
        )
    }

    /// Any record that is a domain and some numbers.
    fn any_of_domain() -> impl Strategy<Value = Record> {
        let domid = any::<Domid>;
        prop_oneof![
            (domid(), any::<u64>(), any::<u32>())
                .prop_map(|(domid, gfn, port)| Record::Introduce { domid, gfn, port }),
            domid().prop_map(|domid| Record::Release { domid }),
            (domid(), any::<bool>())
                .prop_map(|(domid, is_shutdown)| Record::Shutdown { domid, is_shutdown }),
            (domid(), domid()).prop_map(|(domid, target)| Record::Target { domid, target }),
            domid().prop_map(|domid| Record::Reset { domid }),
            (domid(), any::<u32>()).prop_map(|(domid, tx)| Record::Begin { domid, tx }),
            (domid(), any::<u32>()).prop_map(|(domid, tx)| Record::End { domid, tx }),
        ]
    }

    fn any_record() -> impl Strategy<Value = Record> {
        prop_oneof![
            5 => any_op().prop_map(Record::Op),
            7 => any_of_domain(),
            1 => any_watch(),
            1 => any_ring().prop_map(Record::Ring),
            1 => (any_path(), any_bytes(), any_perms())
                .prop_map(|(path, value, perms)| Record::Node { path, value, perms }),
            1 => (any::<Domid>(), any_path(), any_bytes())
                .prop_map(|(domid, path, token)| Record::Unwatch { domid, path, token }),
            1 => (any_path(), any_perms())
                .prop_map(|(name, perms)| Record::Special { name, perms }),
            1 => (any_path(), any::<usize>())
                .prop_map(|(name, value)| Record::Quota { name, value }),
        ]
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(records in prop::collection::vec(any_record(), 0..8)) {
            let mut out = Vec::new();
            records.iter().for_each(|record| record.encode(&mut out));
            let mut from = out.as_slice();
            let mut got = Vec::new();
            while !from.is_empty() {
                got.push(Record::decode(&mut from).unwrap());
            }
            prop_assert_eq!(got, records);
        }

        #[test]
        fn nonsense_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Record::decode(&mut bytes.as_slice());
        }
    }
}
