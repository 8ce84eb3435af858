//! A hypervisor with domains, memory and ports.
#![expect(
    non_upper_case_globals,
    reason = "the ABI's constants keep Xen's spelling"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use guest_abi::Errno;
use guest_abi::domctl::*;
use guest_abi::event_channel::EvtchnAllocUnbound;
use guest_abi::hvm::hvm_op::XenHvmParam;
use guest_abi::memory::*;
use guest_abi::sysctl::*;
use guest_abi::version::XENVER_commandline;
use guest_abi::xen::*;
use xendev::{Arg, MappedPages};
use zerocopy::{FromBytes, IntoBytes};

use super::{Bench, FakeStore};
use crate::Hyper;
use crate::hypercall::Hypervisor;

/// A domain of the fake hypervisor.
#[derive(Debug)]
pub(crate) struct FakeDomain {
    pub(crate) handle: [u8; 16],
    pub(crate) populated: BTreeSet<u64>,
    /// The highest frame that it ever had.
    highest: u64,
    /// How many of them are so when they are touched, and how many pages it is to have.
    pub(crate) on_demand: u64,
    pub(crate) pod_target: u64,
    pub(crate) params: BTreeMap<u32, u64>,
    pub(crate) context: Vec<u8>,
    pub(crate) ports: u32,
    pub(crate) claimed: u64,
    pub(crate) running: bool,
    pub(crate) shutdown: Option<u32>,
    pub(crate) dying: bool,
    pub(crate) map: Vec<u8>,
    memory: OwnedFd,
    grants: OwnedFd,
}

impl FakeDomain {
    fn new(handle: [u8; 16]) -> Self {
        let file = |size| {
            let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&file, size).unwrap();
            file
        };
        Self {
            handle,
            populated: BTreeSet::new(),
            highest: 0,
            on_demand: 0,
            pod_target: 0,
            params: BTreeMap::new(),
            context: Vec::new(),
            ports: 0,
            claimed: 0,
            running: false,
            shutdown: None,
            dying: false,
            map: Vec::new(),
            memory: file(8 << 30),
            grants: file(4096),
        }
    }

    /// Reads the domain's memory.
    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let got = rustix::io::pread(&self.memory, &mut bytes, at).unwrap();
        assert_eq!(got, len);
        bytes
    }

    /// Reads its first grant entries.
    pub(crate) fn grants(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        rustix::io::pread(&self.grants, &mut bytes, 0).unwrap();
        bytes
    }
}

/// What the fake hypervisor holds.
#[derive(Debug, Default)]
pub(crate) struct HostState {
    pub(crate) domains: BTreeMap<u16, FakeDomain>,
    pub(crate) calls: Vec<&'static str>,
    /// Which call (from 0) is refused with -EIO.
    pub(crate) fail_at: Option<usize>,
    /// The largest extent that populate has.
    pub(crate) largest_order: u32,
    pub(crate) free_pages: u64,
    /// What dom0 has.
    pub(crate) dom0_pages: u64,
    /// dom0's balloon driver, which works whenever somebody looks how much memory is free.
    pub(crate) balloon: Option<Balloon>,
    /// What the hypervisor was started with.
    pub(crate) commandline: String,
    /// Destroyed domains stay, dying.
    pub(crate) keeps_zombies: bool,
    next: u16,
}

/// A balloon driver that gives what its target says, in steps, until it has no more than `floor` pages.
#[derive(Debug)]
pub(crate) struct Balloon {
    store: FakeStore,
    floor: u64,
}

impl Balloon {
    pub(crate) fn of(bench: &Bench, floor: u64) -> Self {
        let store = bench.store.clone();
        Self { store, floor }
    }
}

/// A hypervisor for tests; clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct FakeHost(Arc<Mutex<HostState>>);

impl FakeHost {
    pub(crate) fn new() -> Self {
        let host = Self(Arc::default());
        {
            let mut state = host.state();
            state.largest_order = 18;
            state.free_pages = 16 << 18;
            state.next = 1;
            state.domains.insert(0, FakeDomain::new([0; 16]));
        }
        host
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, HostState> {
        self.0.lock().unwrap()
    }

    pub(crate) fn hyper(&self) -> Hyper {
        Hyper::over(self.clone())
    }

    pub(crate) fn make_domain(&self) -> u16 {
        self.state().make([1; 16])
    }
}

impl HostState {
    fn make(&mut self, handle: [u8; 16]) -> u16 {
        let domid = self.next;
        self.next += 1;
        self.domains.insert(domid, FakeDomain::new(handle));
        domid
    }

    /// Has dom0's balloon driver make a step.
    fn inflate(&mut self) {
        let Some(Balloon { store, floor }) = &self.balloon else {
            return;
        };
        if let Some(kib) = store.get("/local/domain/0/memory/target") {
            let target = kib.parse::<u64>().unwrap() / 4;
            let gone = self.dom0_pages.saturating_sub(target.max(*floor)).min(5000);
            self.dom0_pages -= gone;
            self.free_pages += gone;
        }
    }

    fn call(&mut self, name: &'static str) -> Result<(), Errno> {
        let number = self.calls.len();
        self.calls.push(name);
        if self.fail_at == Some(number) {
            Err(Errno::EIO)
        } else {
            Ok(())
        }
    }

    fn domain(&mut self, domid: u16) -> Result<&mut FakeDomain, Errno> {
        self.domains.get_mut(&domid).ok_or(Errno::ESRCH)
    }

    fn info(&self, domid: u16) -> XenDomctlGetdomaininfo {
        let domain = &self.domains[&domid];
        let paused = if domain.running { 0 } else { XEN_DOMINF_paused };
        let ended = domain
            .shutdown
            .map_or(0, |reason| XEN_DOMINF_shutdown | reason << 16);
        XenDomctlGetdomaininfo {
            domain: domid,
            flags: XEN_DOMINF_hvm_guest | paused | ended | u32::from(domain.dying),
            tot_pages: domain.populated.len() as u64 + if domid == 0 { self.dom0_pages } else { 0 },
            handle: domain.handle,
            ..Default::default()
        }
    }
}

fn body<T: FromBytes + Copy>(words: &[u64; 16]) -> T {
    T::read_from_prefix(words.as_bytes()).unwrap().0
}

impl Hypervisor for FakeHost {
    fn hypercall(&self, op: u64, args: &mut [Arg<'_>]) -> Result<i64, Errno> {
        let mut state = self.state();
        match (op, args) {
            (__HYPERVISOR_domctl, [Arg::Struct { bytes, handles }]) => {
                domctl(&mut state, bytes, handles)
            }
            (__HYPERVISOR_sysctl, [Arg::Struct { bytes, handles }]) => {
                sysctl(&mut state, bytes, handles)
            }
            (__HYPERVISOR_memory_op, [Arg::Value(cmd), Arg::Struct { bytes, handles }]) => {
                memory_op(&mut state, u32::try_from(*cmd).unwrap(), bytes, handles)
            }
            (__HYPERVISOR_xen_version, [Arg::Value(cmd), Arg::Bytes(bytes)])
                if u32::try_from(*cmd) == Ok(XENVER_commandline) =>
            {
                state.call("version")?;
                let text = state.commandline.as_bytes();
                bytes[..text.len()].copy_from_slice(text);
                Ok(0)
            }
            (__HYPERVISOR_event_channel_op, [_, Arg::Bytes(bytes)]) => {
                state.call("event_channel")?;
                let (op, _) = EvtchnAllocUnbound::mut_from_prefix(bytes).unwrap();
                let domain = state.domain(op.dom)?;
                domain.ports += 1;
                op.port = domain.ports;
                Ok(0)
            }
            (__HYPERVISOR_hvm_op, [Arg::Value(sub), Arg::Bytes(bytes)]) => {
                state.call("hvm_op")?;
                let (op, _) = XenHvmParam::mut_from_prefix(bytes).unwrap();
                let params = &mut state.domain(op.domid)?.params;
                if *sub == 0 {
                    params.insert(op.index, op.value);
                } else {
                    op.value = params.get(&op.index).copied().unwrap_or(0);
                }
                Ok(0)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn map_foreign(&self, domid: u16, gfns: &[u64], _: bool) -> Result<MappedPages, xendev::Error> {
        let mut state = self.state();
        let refused = |gfn| xendev::Error::Foreign {
            domid,
            total: gfns.len(),
            failed: 1,
            gfn,
            errno: rustix::io::Errno::INVAL,
        };
        state.call("map_foreign").map_err(|_| refused(0))?;
        let domain = state.domain(domid).map_err(|_| refused(0))?;
        if let Some(gfn) = gfns.iter().find(|gfn| !domain.populated.contains(gfn)) {
            return Err(refused(*gfn));
        }
        MappedPages::of_file_pages(&domain.memory, gfns).map_err(|_| refused(1))
    }

    fn map_present(
        &self,
        domid: u16,
        gfns: &[u64],
    ) -> Result<(MappedPages, Vec<bool>), xendev::Error> {
        let mut state = self.state();
        let refused = |_| xendev::Error::Foreign {
            domid,
            total: gfns.len(),
            failed: gfns.len(),
            gfn: 0,
            errno: rustix::io::Errno::INVAL,
        };
        state.call("map_present").map_err(refused)?;
        let domain = state.domain(domid).map_err(refused)?;
        let present = gfns
            .iter()
            .map(|gfn| domain.populated.contains(gfn))
            .collect();
        Ok((
            MappedPages::of_file_pages(&domain.memory, gfns).unwrap(),
            present,
        ))
    }

    fn map_resource(
        &self,
        domid: u16,
        _: u16,
        _: u32,
        _: u32,
    ) -> Result<MappedPages, xendev::Error> {
        let mut state = self.state();
        let refused = || xendev::Error::Foreign {
            domid,
            total: 1,
            failed: 1,
            gfn: 0,
            errno: rustix::io::Errno::INVAL,
        };
        state.call("map_resource").map_err(|_| refused())?;
        let domain = state.domain(domid).map_err(|_| refused())?;
        MappedPages::of_file(&domain.grants, 1, 0, true).map_err(|_| refused())
    }
}

fn domctl(
    state: &mut HostState,
    bytes: &mut [u8],
    handles: &mut [xendev::Handle<'_>],
) -> Result<i64, Errno> {
    state.call("domctl")?;
    let op = XenDomctl::mut_from_bytes(bytes).unwrap();
    assert_eq!(op.interface_version, 0x15);
    let domid = op.domain;
    match op.cmd {
        XEN_DOMCTL_createdomain => {
            let config: XenDomctlCreatedomain = body(&op.u);
            assert_eq!(config.flags & XEN_DOMCTL_CDF_hvm, XEN_DOMCTL_CDF_hvm);
            op.domain = state.make(config.handle);
        }
        XEN_DOMCTL_destroydomain if state.keeps_zombies => state.domain(domid)?.dying = true,
        XEN_DOMCTL_destroydomain => drop(state.domains.remove(&domid).ok_or(Errno::ESRCH)?),
        XEN_DOMCTL_unpausedomain => state.domain(domid)?.running = true,
        XEN_DOMCTL_pausedomain => state.domain(domid)?.running = false,
        XEN_DOMCTL_soft_reset => {
            let domain = state.domain(domid)?;
            if domain.running || domain.shutdown.take().is_none() {
                return Err(Errno::EINVAL);
            }
        }
        XEN_DOMCTL_getdomaininfo => {
            state.domain(domid)?;
            let info = state.info(domid);
            op.u.as_mut_bytes()[..size_of_val(&info)].copy_from_slice(info.as_bytes());
        }
        XEN_DOMCTL_setdomainhandle => state.domain(domid)?.handle = body(&op.u),
        XEN_DOMCTL_gethvmcontext => context(state.domain(domid)?, op, handles),
        XEN_DOMCTL_sethvmcontext => state.domain(domid)?.context = handles[0].data.to_vec(),
        XEN_DOMCTL_max_mem | XEN_DOMCTL_max_vcpus | XEN_DOMCTL_set_paging_mempool_size => {
            _ = state.domain(domid)?
        }
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

/// A header and memory types, as a fresh domain has them.
fn context(_: &FakeDomain, op: &mut XenDomctl, handles: &mut [xendev::Handle<'_>]) {
    let mut records = vec![1, 0, 0, 0, 24, 0, 0, 0];
    records.resize(32, 7);
    records.extend([14, 0, 0, 0, 240, 0, 0, 0]);
    records.resize(records.len() + 240, 0);
    records.extend([0; 8]);
    op.u[0] = records.len() as u64;
    if let [handle] = handles {
        handle.data.copy_from_slice(&records);
    }
}

fn sysctl(
    state: &mut HostState,
    bytes: &mut [u8],
    handles: &mut [xendev::Handle<'_>],
) -> Result<i64, Errno> {
    state.call("sysctl")?;
    let op = XenSysctl::mut_from_bytes(bytes).unwrap();
    match op.cmd {
        XEN_SYSCTL_getdomaininfolist => {
            let first = body::<XenSysctlGetdomaininfolist>(&op.u).first_domain;
            let infos: Vec<_> = state
                .domains
                .range(first..)
                .map(|(domid, _)| state.info(*domid))
                .collect();
            let raw = infos.as_slice().as_bytes();
            handles[0].data[..raw.len()].copy_from_slice(raw);
            op.u[2] = infos.len() as u64;
        }
        XEN_SYSCTL_physinfo => {
            state.inflate();
            let info = XenSysctlPhysinfo {
                free_pages: state.free_pages,
                ..Default::default()
            };
            op.u.as_mut_bytes()[..size_of_val(&info)].copy_from_slice(info.as_bytes());
        }
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

fn memory_op(
    state: &mut HostState,
    cmd: u32,
    bytes: &mut [u8],
    handles: &mut [xendev::Handle<'_>],
) -> Result<i64, Errno> {
    match cmd {
        XENMEM_populate_physmap => {
            state.call("populate")?;
            let op = XenMemoryReservation::read_from_bytes(bytes).unwrap();
            if op.extent_order > state.largest_order {
                return Err(Errno::ENOMEM);
            }
            let domain = state.domain(op.domid)?;
            if op.mem_flags & XENMEMF_populate_on_demand != 0 {
                domain.on_demand += op.nr_extents << op.extent_order;
            }
            for gfn in <[u64]>::ref_from_bytes(handles[0].data).unwrap() {
                for gfn in *gfn..gfn + (1 << op.extent_order) {
                    assert!(domain.populated.insert(gfn), "gfn {gfn:#x} is backed twice");
                    domain.highest = domain.highest.max(gfn);
                }
            }
            Ok(i64::try_from(op.nr_extents).unwrap())
        }
        XENMEM_set_pod_target => {
            state.call("set_pod_target")?;
            let op = XenPodTarget::read_from_bytes(bytes).unwrap();
            state.domain(op.domid)?.pod_target = op.target_pages;
            Ok(0)
        }
        XENMEM_get_pod_target => {
            state.call("get_pod_target")?;
            let op = XenPodTarget::mut_from_bytes(bytes).unwrap();
            let domain = state.domain(op.domid)?;
            // nobody has touched anything
            op.pod_cache_pages = domain.pod_target;
            op.pod_entries = domain.on_demand;
            Ok(0)
        }
        XENMEM_claim_pages => {
            state.call("claim")?;
            let op = XenMemoryReservation::read_from_bytes(bytes).unwrap();
            if op.nr_extents > state.free_pages {
                return Err(Errno::ENOMEM);
            }
            state.domain(op.domid)?.claimed = op.nr_extents;
            Ok(0)
        }
        XENMEM_maximum_gpfn => {
            let domid = u16::from_le_bytes(*bytes.first_chunk().unwrap());
            Ok(i64::try_from(state.domain(domid)?.highest).unwrap())
        }
        XENMEM_set_memory_map => {
            state.call("set_memory_map")?;
            let op = XenForeignMemoryMap::read_from_bytes(bytes).unwrap();
            state.domain(op.domid)?.map = handles[0].data.to_vec();
            Ok(0)
        }
        _ => Err(Errno::ENOSYS),
    }
}
