//! Messages on the wire: a 16-byte head, then at most 4096 bytes, mostly strings that end in NUL.
//!
//! The same framing runs over the socket, the kernel's device and a guest's ring. [`Inbox`] cuts the byte stream into
//! messages wherever the reads have cut it. Source: `public/io/xs_wire.h`.

use guest_abi::io::xs_wire as abi;
use zerocopy::{FromBytes, IntoBytes};

pub use abi::{XENSTORE_PAYLOAD_MAX, XsdSockmsg};

/// Bytes of a message's head.
pub const HEADER_SIZE: usize = size_of::<XsdSockmsg>();

/// Declares an enum whose variants are numbers of the wire, with the conversion back.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:ident),+ $(,)?) => {
        /// What a message asks for or answers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $name),+ }

        impl Kind {
            /// Every kind, in the order of the wire's numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Returns the number on the wire.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self { $(Self::$name => abi::$value),+ }
            }

            /// Finds the kind of a number on the wire.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $(abi::$value => Some(Self::$name),)+ _ => None }
            }

            /// Returns the name after `XS_`.
            #[must_use]
            pub fn name(self) -> &'static str {
                let name = match self { $(Self::$name => stringify!($value)),+ };
                name.strip_prefix("XS_").unwrap_or(name)
            }
        }
    };
}

kinds! {
    /// A command to the daemon itself.
    Control = XS_CONTROL,
    /// Lists children.
    Directory = XS_DIRECTORY,
    /// Reads a node.
    Read = XS_READ,
    /// Reads a node's permissions.
    GetPerms = XS_GET_PERMS,
    /// Sets a watch.
    Watch = XS_WATCH,
    /// Removes a watch.
    Unwatch = XS_UNWATCH,
    /// Starts a transaction.
    TransactionStart = XS_TRANSACTION_START,
    /// Ends a transaction.
    TransactionEnd = XS_TRANSACTION_END,
    /// Introduces a domain.
    Introduce = XS_INTRODUCE,
    /// Releases a domain.
    Release = XS_RELEASE,
    /// Asks for a domain's path.
    GetDomainPath = XS_GET_DOMAIN_PATH,
    /// Writes a node.
    Write = XS_WRITE,
    /// Makes a node.
    Mkdir = XS_MKDIR,
    /// Removes a node and all below it.
    Rm = XS_RM,
    /// Sets a node's permissions.
    SetPerms = XS_SET_PERMS,
    /// A watch fired (from the daemon only).
    WatchEvent = XS_WATCH_EVENT,
    /// A request was refused (from the daemon only).
    Error = XS_ERROR,
    /// Asks whether a domain is introduced.
    IsDomainIntroduced = XS_IS_DOMAIN_INTRODUCED,
    /// Tells that a domain resumed.
    Resume = XS_RESUME,
    /// Gives a domain the rights of another.
    SetTarget = XS_SET_TARGET,
    /// Removes all watches and transactions of the caller.
    ResetWatches = XS_RESET_WATCHES,
    /// Lists children in parts.
    DirectoryPart = XS_DIRECTORY_PART,
}

/// Declares the error names of the wire.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $errno:ident, $says:literal);+ $(;)?) => {
        /// Why a request was refused: the error names of the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Refusal { $($(#[$doc])* $name),+ }

        impl Refusal {
            /// Every name, in the wire's order.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Returns the name as it is sent, without its NUL.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// Returns the errno of the same name.
            #[must_use]
            pub const fn errno(self) -> rustix::io::Errno {
                match self { $(Self::$name => rustix::io::Errno::$errno),+ }
            }

            /// Returns libc's text for that errno.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self { $(Self::$name => $says),+ }
            }
        }
    };
}

refusals! {
    /// The request makes no sense.
    Invalid = "EINVAL", INVAL, "Invalid argument";
    /// The caller may not.
    Access = "EACCES", ACCESS, "Permission denied";
    /// It exists.
    Exists = "EEXIST", EXIST, "File exists";
    /// It is a directory.
    IsDirectory = "EISDIR", ISDIR, "Is a directory";
    /// No such node, watch or transaction.
    NotFound = "ENOENT", NOENT, "No such file or directory";
    /// Out of memory, or of the caller's share of it.
    NoMemory = "ENOMEM", NOMEM, "Cannot allocate memory";
    /// A quota is used up.
    NoSpace = "ENOSPC", NOSPC, "No space left on device";
    /// Input or output failed.
    Io = "EIO", IO, "Input/output error";
    /// It has children.
    NotEmpty = "ENOTEMPTY", NOTEMPTY, "Directory not empty";
    /// No such request.
    NotSupported = "ENOSYS", NOSYS, "Function not implemented";
    /// Changes are not allowed over this connection.
    ReadOnly = "EROFS", ROFS, "Read-only file system";
    /// In use.
    Busy = "EBUSY", BUSY, "Device or resource busy";
    /// A transaction met a conflict: run it again.
    Again = "EAGAIN", AGAIN, "Resource temporarily unavailable";
    /// The domain is introduced already.
    Connected = "EISCONN", ISCONN, "Transport endpoint is already connected";
    /// The answer or the value is too long.
    TooBig = "E2BIG", TOOBIG, "Argument list too long";
    /// The owner alone may.
    NotPermitted = "EPERM", PERM, "Operation not permitted";
}

impl Refusal {
    /// Finds the refusal of a name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let name = name.strip_suffix(b"\0").unwrap_or(name);
        Self::ALL
            .iter()
            .copied()
            .find(|refusal| refusal.name().as_bytes() == name)
    }
}

/// One message, cut out of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Number of the [`Kind`]; a guest may send any.
    pub kind: u32,
    /// The request's id, echoed in its reply; 0 in watch events.
    pub req_id: u32,
    /// Transaction, or 0.
    pub tx_id: u32,
    /// At most [`XENSTORE_PAYLOAD_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// A head that announces more than [`XENSTORE_PAYLOAD_MAX`] bytes: the stream cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// Bytes announced.
    pub len: u32,
}

/// Appends a message made of `parts` to `out`.
///
/// # Errors
/// The parts are longer than [`XENSTORE_PAYLOAD_MAX`] together; `out` is unchanged.
pub fn encode(
    out: &mut Vec<u8>,
    kind: u32,
    req_id: u32,
    tx_id: u32,
    parts: &[&[u8]],
) -> Result<(), TooLong> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let len = u32::try_from(total).unwrap_or(u32::MAX);
    if total > XENSTORE_PAYLOAD_MAX {
        return Err(TooLong { len });
    }
    let head = XsdSockmsg {
        type_: kind,
        req_id,
        tx_id,
        len,
    };
    out.reserve(HEADER_SIZE + total);
    out.extend_from_slice(head.as_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    Ok(())
}

/// Bytes received and not yet understood.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

impl Inbox {
    /// Appends what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.bytes.len() {
            self.clear();
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole message; `None` if it has not arrived whole yet.
    ///
    /// # Errors
    /// The message announces a payload over the limit: the connection is of no more use.
    pub fn pop(&mut self) -> Result<Option<Message>, TooLong> {
        let pending = self.bytes.get(self.start..).unwrap_or_default();
        let Ok((head, rest)) = XsdSockmsg::read_from_prefix(pending) else {
            return Ok(None);
        };
        let len = usize::try_from(head.len).unwrap_or(usize::MAX);
        if len > XENSTORE_PAYLOAD_MAX {
            return Err(TooLong { len: head.len });
        }
        let Some(payload) = rest.get(..len) else {
            return Ok(None);
        };
        let message = Message {
            kind: head.type_,
            req_id: head.req_id,
            tx_id: head.tx_id,
            payload: payload.to_vec(),
        };
        self.start += HEADER_SIZE + len;
        if self.start == self.bytes.len() {
            self.clear();
        }
        Ok(Some(message))
    }

    /// Tells whether [`Inbox::pop`] has something to say: a whole message, or an error.
    #[must_use]
    pub fn has_message(&self) -> bool {
        let Ok((head, rest)) = XsdSockmsg::read_from_prefix(self.pending()) else {
            return false;
        };
        let len = usize::try_from(head.len).unwrap_or(usize::MAX);
        len > XENSTORE_PAYLOAD_MAX || rest.len() >= len
    }

    /// Returns how many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Returns the bytes that wait.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Tells whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }
}

/// Iterates over the NUL-terminated strings of a payload; a last one without NUL counts too.
pub fn strings(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = payload.strip_suffix(b"\0").unwrap_or(payload);
    let mut fields = whole.split(|&byte| byte == 0);
    // An empty payload holds no string, but splits into one that is empty.
    if payload.is_empty() {
        fields.next();
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_kinds_agree_both_ways() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind.number()), Some(*kind));
        }
        assert_eq!(Kind::from_number(20), None);
        assert_eq!(Kind::DirectoryPart.name(), "DIRECTORY_PART");
    }

    #[test]
    fn error_names_are_found_with_and_without_nul() {
        for refusal in Refusal::ALL {
            let sent = format!("{}\0", refusal.name());
            assert_eq!(Refusal::from_name(sent.as_bytes()), Some(*refusal));
        }
        assert_eq!(Refusal::from_name(b"ENOENT"), Some(Refusal::NotFound));
        assert_eq!(Refusal::from_name(b"EWHAT"), None);
    }

    #[test]
    fn an_overlong_head_is_an_error_even_before_its_payload_came() {
        let mut inbox = Inbox::default();
        let head = XsdSockmsg {
            type_: 2,
            req_id: 0,
            tx_id: 0,
            len: 4097,
        };
        inbox.push(head.as_bytes());
        assert_eq!(inbox.pop(), Err(TooLong { len: 4097 }));
    }

    #[test]
    fn strings_of_a_payload() {
        assert_eq!(
            strings(b"a\0\0b\0").collect::<Vec<_>>(),
            [&b"a"[..], b"", b"b"]
        );
        assert_eq!(strings(b"a\0b").collect::<Vec<_>>(), [&b"a"[..], b"b"]);
        assert_eq!(strings(b"\0").collect::<Vec<_>>(), [&b""[..]]);
        assert_eq!(strings(b"").count(), 0);
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut_of_the_stream(
            sent in prop::collection::vec((0u32..30, any::<u32>(), prop::collection::vec(any::<u8>(), 0..200)), 0..12),
            cuts in prop::collection::vec(1usize..64, 1..64),
        ) {
            let mut stream = Vec::new();
            for (kind, id, payload) in &sent {
                encode(&mut stream, *kind, *id, 0, &[payload]).unwrap();
            }
            let mut inbox = Inbox::default();
            let mut got = Vec::new();
            let (mut rest, mut sizes) = (stream.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                inbox.push(now);
                rest = later;
                while inbox.has_message() {
                    let m = inbox.pop().unwrap().unwrap();
                    got.push((m.kind, m.req_id, m.payload));
                }
                prop_assert_eq!(inbox.pop(), Ok(None));
            }
            prop_assert_eq!(got, sent);
            prop_assert!(inbox.is_empty());
        }
    }
}
