//! Bridges and interfaces, by route netlink: one request and its acknowledgement at a time.
//!
//! Source: Linux, `include/uapi/linux/rtnetlink.h`, `if_link.h`.

use std::io::{Error, ErrorKind, Result};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFF_UP: u32 = 1;

/// Makes a bridge and brings it up.
pub(super) fn create_bridge(name: &str) -> Result<()> {
    let mut request = Link::new(0, IFF_UP, IFF_UP);
    request.attribute(IFLA_IFNAME, &terminated(name));
    let mut kind = Vec::new();
    put_attribute(&mut kind, IFLA_INFO_KIND, b"bridge");
    request.attribute(IFLA_LINKINFO, &kind);
    request.send(NLM_F_CREATE | NLM_F_EXCL)
}

/// Gives an interface (which is down) another name.
pub(super) fn rename(from: &str, to: &str) -> Result<()> {
    let mut request = Link::new(index(from)?, 0, 0);
    request.attribute(IFLA_IFNAME, &terminated(to));
    request.send(0)
}

/// Puts an interface into a bridge and brings it up.
pub(super) fn join(name: &str, bridge: &str, mtu: Option<u32>) -> Result<()> {
    let mut request = Link::new(index(name)?, IFF_UP, IFF_UP);
    request.attribute(IFLA_MASTER, &index(bridge)?.to_ne_bytes());
    if let Some(mtu) = mtu {
        request.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    }
    request.send(0)
}

fn index(name: &str) -> Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))?;
    text.trim()
        .parse()
        .map_err(|_| Error::new(ErrorKind::InvalidData, "the interface's index is no number"))
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// An RTM_NEWLINK request without its header.
struct Link {
    body: Vec<u8>,
}

impl Link {
    /// About interface `index` (0: by name); `flags` are set where `change` has a bit.
    fn new(index: u32, flags: u32, change: u32) -> Self {
        // family, padding and type are 0
        let mut body = vec![0; 4];
        for word in [index, flags, change] {
            body.extend(word.to_ne_bytes());
        }
        Self { body }
    }

    fn attribute(&mut self, kind: u16, data: &[u8]) {
        put_attribute(&mut self.body, kind, data);
    }

    /// The message with its header: length, type, flags, sequence number, sender.
    fn message(&self, flags: u16) -> Vec<u8> {
        let length = u32::try_from(16 + self.body.len()).expect("a request is small");
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(RTM_NEWLINK.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        message.extend(1u32.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(&self.body);
        message
    }

    fn send(&self, flags: u16) -> Result<()> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        send(&socket, &self.message(flags), SendFlags::empty())?;
        let mut reply = [0; 4096];
        let (got, _) = recv(&socket, &mut reply, RecvFlags::empty())?;
        outcome(reply.get(..got).unwrap_or_default())
    }
}

fn put_attribute(to: &mut Vec<u8>, kind: u16, data: &[u8]) {
    let length = u16::try_from(4 + data.len()).expect("an attribute is small");
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(data);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Reads an acknowledgement: an error message, whose number is 0 for success.
fn outcome(reply: &[u8]) -> Result<()> {
    let malformed = || Error::new(ErrorKind::InvalidData, "netlink's answer is malformed");
    let kind = reply
        .get(4..6)
        .and_then(|bytes| bytes.first_chunk())
        .ok_or_else(malformed)?;
    let errno = reply
        .get(16..20)
        .and_then(|bytes| bytes.first_chunk())
        .ok_or_else(malformed)?;
    match (u16::from_ne_bytes(*kind), i32::from_ne_bytes(*errno)) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, errno) => Err(Error::from_raw_os_error(errno.saturating_neg())),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_linux_reads_it() {
        let mut request = Link::new(7, IFF_UP, IFF_UP);
        request.attribute(IFLA_IFNAME, b"br0\0");
        request.attribute(IFLA_INFO_KIND, b"bridge");
        let message = request.message(NLM_F_CREATE);
        assert_eq!(message.len(), 16 + 16 + 8 + 12);
        assert_eq!(message[..4], 52u32.to_ne_bytes());
        assert_eq!(message[20..24], 7u32.to_ne_bytes());
        assert_eq!(message[32..40], [8, 0, 3, 0, b'b', b'r', b'0', 0]);
        assert_eq!(message[40..44], [10, 0, 1, 0]);
    }

    #[test]
    fn an_acknowledgement_says_yes_or_why_not() {
        let mut reply = vec![0; 36];
        reply[4] = 2;
        assert!(outcome(&reply).is_ok());
        reply[16..20].copy_from_slice(&(-17i32).to_ne_bytes());
        assert_eq!(outcome(&reply).unwrap_err().raw_os_error(), Some(17));
        assert!(outcome(&reply[..10]).is_err());
    }
}
