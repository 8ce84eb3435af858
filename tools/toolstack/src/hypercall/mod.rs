//! Typed hypercalls: one method a call, over guest-abi's structs.
//!
//! [`Hyper`] is what everything else uses. Below it is the trait [`Hypervisor`], with the real host ([`Xen`], through
//! /dev/xen/privcmd) behind it, or a fake that plays a hypervisor in tests. An error names the call, what it was about,
//! and the errno.

mod domctl;
mod domstate;
mod event_channel;
mod hvm;
mod memory;
mod sysctl;
mod version;

use std::fmt;
use std::rc::Rc;

use guest_abi::Errno;
use xendev::{Arg, Handle, MappedPages, Privcmd};

pub use domctl::Affinity;
pub use domstate::CpuPolicy;
pub use memory::When;
pub use sysctl::{CpuPoolInfo, HostPolicy, Topology};
pub use version::VersionInfo;

/// What a hypervisor does for a toolstack.
pub trait Hypervisor: fmt::Debug {
    /// Makes a hypercall, see [`Privcmd::hypercall`].
    ///
    /// # Errors
    /// The hypervisor's.
    fn hypercall(&self, op: u64, args: &mut [Arg<'_>]) -> Result<i64, Errno>;

    /// Maps guest frames of another domain.
    ///
    /// # Errors
    /// Where some cannot be mapped.
    fn map_foreign(
        &self,
        domid: u16,
        gfns: &[u64],
        writable: bool,
    ) -> Result<MappedPages, xendev::Error>;

    /// Maps those of another domain's guest frames that are there, for reading; tells which are. Others must not be
    /// touched.
    ///
    /// # Errors
    /// Where the call itself fails.
    fn map_present(
        &self,
        domid: u16,
        gfns: &[u64],
    ) -> Result<(MappedPages, Vec<bool>), xendev::Error>;

    /// Maps the first `count` frames of a domain's resource.
    ///
    /// # Errors
    /// Where they cannot be mapped.
    fn map_resource(
        &self,
        domid: u16,
        kind: u16,
        id: u32,
        count: u32,
    ) -> Result<MappedPages, xendev::Error>;
}

/// The hypervisor below this dom0.
#[derive(Debug)]
pub struct Xen(Privcmd);

impl Xen {
    /// Opens /dev/xen/privcmd.
    ///
    /// # Errors
    /// Where it is not there or not ours to open.
    pub fn open() -> Result<Self, xendev::Error> {
        Privcmd::open().map(Self)
    }
}

impl Hypervisor for Xen {
    fn hypercall(&self, op: u64, args: &mut [Arg<'_>]) -> Result<i64, Errno> {
        self.0.hypercall(op, args)
    }

    fn map_foreign(
        &self,
        domid: u16,
        gfns: &[u64],
        writable: bool,
    ) -> Result<MappedPages, xendev::Error> {
        self.0.map_foreign(domid, gfns, writable)
    }

    fn map_present(
        &self,
        domid: u16,
        gfns: &[u64],
    ) -> Result<(MappedPages, Vec<bool>), xendev::Error> {
        self.0.map_present(domid, gfns)
    }

    fn map_resource(
        &self,
        domid: u16,
        kind: u16,
        id: u32,
        count: u32,
    ) -> Result<MappedPages, xendev::Error> {
        self.0.map_resource(domid, kind, id, 0, count)
    }
}

/// A hypercall was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HypercallError {
    /// The call and its sub-operation: `domctl createdomain`.
    pub call: &'static str,
    /// The domain and the numbers it was called with; empty where it has none.
    pub about: String,
    /// Why.
    pub errno: Errno,
}

impl HypercallError {
    /// Describes a refusal.
    #[must_use]
    pub fn new(call: &'static str, about: impl Into<String>, errno: Errno) -> Self {
        Self {
            call,
            about: about.into(),
            errno,
        }
    }
}

impl fmt::Display for HypercallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.call)?;
        if !self.about.is_empty() {
            write!(f, " ({})", self.about)?;
        }
        write!(f, ": {} ({})", self.errno.name(), meaning(self.errno))
    }
}

impl std::error::Error for HypercallError {}

/// An errno in words that fit a hypervisor.
fn meaning(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => "not permitted; is this dom0?",
        Errno::ENOENT => "no such entry",
        Errno::ESRCH => "no such domain",
        Errno::EACCES => "refused, or another version of the toolstack's interface",
        Errno::ENOMEM => "Out of memory",
        Errno::EINVAL => "Invalid argument",
        Errno::EFAULT => "bad address",
        Errno::EBUSY => "in use",
        Errno::EEXIST => "exists already",
        Errno::ENOSYS | Errno::EOPNOTSUPP => "not supported by this hypervisor",
        Errno::ENOSPC => "no room",
        Errno::E2BIG => "too much at once",
        _ => "see Xen's errno.h",
    }
}

/// The result of one hypercall.
pub type CallResult<T> = Result<T, HypercallError>;

/// The typed calls; clones speak to the same hypervisor.
#[derive(Clone, Debug)]
pub struct Hyper(Rc<dyn Hypervisor>);

impl Hyper {
    /// Speaks to the hypervisor below this dom0.
    ///
    /// # Errors
    /// Where /dev/xen/privcmd cannot be opened.
    pub fn open() -> Result<Self, xendev::Error> {
        Xen::open().map(Self::over)
    }

    /// Speaks to any hypervisor.
    pub fn over(hypervisor: impl Hypervisor + 'static) -> Self {
        Self(Rc::new(hypervisor))
    }

    /// Maps guest frames of another domain, in the order given.
    ///
    /// # Errors
    /// Where some cannot be mapped.
    pub fn map_foreign(
        &self,
        domid: u16,
        gfns: &[u64],
        writable: bool,
    ) -> Result<MappedPages, xendev::Error> {
        self.0.map_foreign(domid, gfns, writable)
    }

    /// Maps those of another domain's guest frames that are there, for reading; tells which are. Others must not be
    /// touched.
    ///
    /// # Errors
    /// Where the call itself fails.
    pub fn map_present(
        &self,
        domid: u16,
        gfns: &[u64],
    ) -> Result<(MappedPages, Vec<bool>), xendev::Error> {
        self.0.map_present(domid, gfns)
    }

    /// Maps the first `count` frames of a domain's resource (`XENMEM_resource_*`).
    ///
    /// # Errors
    /// Where they cannot be mapped.
    pub fn map_resource(
        &self,
        domid: u16,
        kind: u16,
        id: u32,
        count: u32,
    ) -> Result<MappedPages, xendev::Error> {
        self.0.map_resource(domid, kind, id, count)
    }

    /// A call with a number and a struct.
    fn call_with(&self, op: u64, sub_op: u32, bytes: &mut [u8]) -> Result<i64, Errno> {
        self.0
            .hypercall(op, &mut [Arg::Value(sub_op.into()), Arg::Bytes(bytes)])
    }

    /// A call with a struct whose body, `handles` in it, begins at an offset.
    fn call_in_envelope(
        &self,
        op: u64,
        envelope: &mut [u8],
        (body, handles): (usize, &mut [Handle<'_>]),
    ) -> Result<i64, Errno> {
        let mut moved: Vec<Handle<'_>> = handles
            .iter_mut()
            .map(|handle| Handle {
                at: handle.at + body,
                data: &mut *handle.data,
            })
            .collect();
        self.0.hypercall(
            op,
            &mut [Arg::Struct {
                bytes: envelope,
                handles: &mut moved,
            }],
        )
    }
}

/// Puts `body` at the start of the 128 bytes of a domctl or sysctl.
fn union_of(body: &[u8]) -> [u64; 16] {
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(body.chunks(8)) {
        let mut whole = [0; 8];
        whole
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        *word = u64::from_le_bytes(whole);
    }
    words
}

/// Takes the start of those bytes back into `body`.
fn union_into(words: &[u64; 16], body: &mut [u8]) {
    for (bytes, word) in body.chunks_mut(8).zip(words) {
        bytes
            .iter_mut()
            .zip(word.to_le_bytes())
            .for_each(|(to, from)| *to = from);
    }
}

fn domain(domid: u16) -> String {
    format!("domain {domid}")
}
