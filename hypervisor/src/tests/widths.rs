//! Hypercalls of 64-bit and of 32-bit code: the same sequence of calls by both has the same outcome.
#![expect(
    clippy::cast_possible_truncation,
    reason = "results are compared as 32-bit code sees them"
)]

use hv_hw::sync::atomic::Ordering;

use crate::domain::create::{self, DomainResources};
use crate::domain::destroy::{self, Progress};
use crate::domain::vcpu_frames::VcpuFrames;
use crate::domain::vcpu_state::VcpuState;
use crate::domain::{ShutdownReason, registry, space};
use crate::exit;
use crate::main_loop::CpuMain;
use crate::pcpu::Pcpu;
use crate::pcpu::hand_off::{self, HandOff};
use crate::runner::{Activity, Runner, make};
use crate::tests::common::{RIP, fake, give_ram, guest_config, pcpu, prepare};
use guest_abi::compat::{Compat, Width, XenUlong};
use guest_abi::errno::Errno;
use guest_abi::event_channel::*;
use guest_abi::grant_table::*;
use guest_abi::hvm::hvm_op::*;
use guest_abi::hvm::hvm_vcpu::{VCPU_HVM_MODE_32B, VcpuHvmContext, VcpuHvmX8632};
use guest_abi::hvm::params::*;
use guest_abi::memory::*;
use guest_abi::sched::{
    SCHEDOP_poll, SCHEDOP_shutdown, SCHEDOP_watchdog, SHUTDOWN_watchdog, SchedPoll, SchedShutdown,
    SchedWatchdog,
};
use guest_abi::vcpu::*;
use guest_abi::version::*;
use guest_abi::xen::*;
use hv_core::addr::Gfn;
use hv_core::mem::SharedWords;
use hv_core::options::Scheduler;
use hv_hw::direct_map::SharedFrame;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{SEGMENT_CS, SEGMENT_SS, VcpuHw, VmExit};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

const FRAMES: u64 = 16;
/// Where arguments, arrays, and what grants and areas are, begin: a frame each.
const ARGS: u64 = 0x1000;
const ARRAY: u64 = 0x2000;
const SHARED: u64 = 0x3000;
const AREA: u64 = 0x4000;
const TABLE: u64 = 0x5000;

/// A guest with one vCPU that runs code of one width, without paging.
struct Guest {
    width: Width,
    runner: Runner<FakeVcpu>,
    pcpu: Pcpu,
    ram: Vec<SharedFrame>,
}

impl Guest {
    fn new(width: Width) -> Self {
        crate::tests::common::prepare();
        let number = registry::reserve(None).unwrap();
        let own = DomainResources::none().unwrap();
        let domain = create::domain(number.id(), guest_config(2), own);
        let domain = std::sync::Arc::new(domain.unwrap_or_else(|errno| panic!("{errno:?}")));
        registry::add(domain.clone());
        domain.limits.max_pages.store(64, Ordering::Relaxed);
        let mut pcpu = pcpu();
        let hand_off = HandOff {
            domain: domain.clone(),
            index: 0,
            parts: VcpuFrames::alloc().unwrap(),
        };
        let mut runner = make::runner(hand_off, &mut pcpu, fake);
        runner.activity = Activity::Ready;
        if width == Width::Bits32 {
            runner.hw.system.segments[SEGMENT_CS].access = 0;
        }
        let ram = give_ram(&domain, FRAMES);
        Self {
            width,
            runner,
            pcpu,
            ram,
        }
    }

    /// Lays `value` out at `at` as this guest has it; returns `at`.
    fn put<T: Compat>(&self, at: u64, value: T) -> u64 {
        match self.width {
            Width::Bits64 => self.put_bytes(at, value.as_bytes()),
            Width::Bits32 => self.put_bytes(at, value.narrow().as_bytes()),
        }
        at
    }

    fn put_all<T: Compat>(&self, at: u64, values: &[T]) -> u64 {
        for (index, value) in (0..).zip(values) {
            self.put(at + index * T::bytes(self.width) as u64, *value);
        }
        at
    }

    fn put_bytes(&self, at: u64, bytes: &[u8]) {
        self.frame(at).write_bytes((at & 0xFFF) as usize, bytes);
    }

    fn get<T: Compat>(&self, at: u64) -> T {
        match self.width {
            Width::Bits64 => self.get_plain(at),
            Width::Bits32 => T::widen(self.get_plain(at)),
        }
    }

    fn get_plain<T: FromBytes + IntoBytes>(&self, at: u64) -> T {
        let mut value = T::new_zeroed();
        let offset = (at & 0xFFF) as usize;
        self.frame(at).read_bytes(offset, value.as_mut_bytes());
        value
    }

    fn frame(&self, at: u64) -> SharedFrame {
        self.ram[(at >> 12) as usize]
    }

    /// Executes a hypercall to its end, with junk in all registers that are no argument; its result as a signed number.
    fn call(&mut self, number: u64, args: [u64; 5]) -> i64 {
        const PLACES: [[usize; 5]; 2] = [[7, 6, 2, 10, 8], [3, 1, 2, 6, 7]];
        let junk = 0xDEAD_0000_0000_0000;
        let regs = self.runner.hw.regs();
        regs.gpr = [junk | 0xBAD; 16];
        let narrow = self.width == Width::Bits32;
        regs.set_rax(if narrow { junk | number } else { number });
        for (place, arg) in PLACES[usize::from(narrow)].into_iter().zip(args) {
            regs.gpr[place] = if narrow { junk | arg } else { arg };
        }
        let before = self.runner.hw.registers;
        self.runner.hw.system.rip = RIP;
        for _ in 0..1000 {
            let _ = exit::handle(&mut self.runner, &mut self.pcpu, VmExit::Hypercall);
            if self.runner.hw.rip() != RIP {
                let after = self.runner.hw.registers;
                for place in (1..16).filter(|place| !PLACES[usize::from(narrow)].contains(place)) {
                    assert_eq!(after.gpr[place], before.gpr[place], "register {place}");
                }
                let [a, b, c, d, ..] = after.rax().to_le_bytes();
                return match self.width {
                    Width::Bits64 => after.rax().cast_signed(),
                    Width::Bits32 => i32::from_le_bytes([a, b, c, d]).into(),
                };
            }
        }
        panic!("hypercall {number} does not end");
    }

    /// Calls with a structure at [`ARGS`] as second argument; the result, and the structure then.
    fn with<T: Compat>(&mut self, number: u64, op: u32, value: T) -> (i64, T) {
        let at = self.put(ARGS, value);
        let result = self.call(number, [op.into(), at, 0, 0, 0]);
        (result, self.get(ARGS))
    }

    /// Calls for an array of structures at [`ARGS`].
    fn array<T: Compat>(&mut self, op: u32, values: &[T]) -> (i64, Vec<T>) {
        let at = self.put_all(ARGS, values);
        let count = values.len() as u64;
        let result = self.call(__HYPERVISOR_grant_table_op, [op.into(), at, count, 0, 0]);
        let place = |index: u64| at + index * T::bytes(self.width) as u64;
        (
            result,
            (0..count).map(|index| self.get(place(index))).collect(),
        )
    }

    fn of_vcpu<T: Compat>(&mut self, op: u32, vcpu: u64, value: T) -> (i64, T) {
        let at = self.put(ARGS, value);
        let result = self.call(__HYPERVISOR_vcpu_op, [op.into(), vcpu, at, 0, 0]);
        (result, self.get(ARGS))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let domain = self.runner.domain.clone();
        let mut hw = FakeVcpu::default();
        while destroy::step(&domain, &mut hw) == Progress::More {}
    }
}

/// Runs `story` in a guest of each width; the outcomes are the same, and the last one's is returned.
fn alike<T: PartialEq + std::fmt::Debug>(story: impl Fn(&mut Guest) -> T) -> T {
    prepare();
    let wide = story(&mut Guest::new(Width::Bits64));
    let narrow = story(&mut Guest::new(Width::Bits32));
    assert_eq!(wide, narrow);
    wide
}

fn refused(errno: Errno) -> i64 {
    errno.to_rax().cast_signed()
}

#[test]
fn version_and_its_texts() {
    let outcome = alike(|guest| {
        let plain = [XENVER_version, XENVER_pagesize, XENVER_build_id, 99];
        let plain = plain.map(|op| guest.call(__HYPERVISOR_xen_version, [op.into(), 0, 0, 0, 0]));
        let features = guest.with(
            __HYPERVISOR_xen_version,
            XENVER_get_features,
            XenFeatureInfo::default(),
        );
        let text = guest.with(
            __HYPERVISOR_xen_version,
            XENVER_capabilities,
            [0u8; XEN_CAPABILITIES_INFO_LEN],
        );
        let start = XenPlatformParameters { virt_start: 7 };
        let start = guest.with(__HYPERVISOR_xen_version, XENVER_platform_parameters, start);
        (plain, features, text.0, text.1.to_vec(), start)
    });
    assert_eq!(outcome.0[0], 0x0004_0011);
    assert_eq!(outcome.4.1.virt_start, 0);
}

/// What lies after a structure of 32 bits is not written.
#[test]
fn narrow_structure_ends_where_it_ends() {
    prepare();
    let mut guest = Guest::new(Width::Bits32);
    guest.put_bytes(ARGS + 4, &[0xAA; 4]);
    let start = XenPlatformParameters { virt_start: 7 };
    let (result, _) = guest.with(__HYPERVISOR_xen_version, XENVER_platform_parameters, start);
    assert_eq!(result, 0);
    assert_eq!(guest.get_plain::<[u8; 4]>(ARGS + 4), [0xAA; 4]);
    let memory = XenMemoryMap::default();
    guest.put_bytes(ARGS + 8, &[0xAA; 8]);
    let (result, _) = guest.with(__HYPERVISOR_memory_op, XENMEM_memory_map, memory);
    assert_eq!(result, 0);
    assert_eq!(guest.get_plain::<[u8; 8]>(ARGS + 8), [0xAA; 8]);
}

#[test]
fn event_channels_open_raise_and_close() {
    let outcome = alike(|guest| {
        let number = __HYPERVISOR_event_channel_op;
        let alloc = EvtchnAllocUnbound {
            dom: DOMID_SELF,
            remote_dom: DOMID_SELF,
            port: 0,
        };
        let far = guest.with(number, EVTCHNOP_alloc_unbound, alloc);
        let ipi = guest.with(
            number,
            EVTCHNOP_bind_ipi,
            EvtchnBindIpi { vcpu: 1, port: 0 },
        );
        let sent = guest.with(number, EVTCHNOP_send, EvtchnSend { port: ipi.1.port });
        let status = EvtchnStatus {
            dom: DOMID_SELF,
            port: ipi.1.port,
            ..EvtchnStatus::default()
        };
        let status = guest.with(number, EVTCHNOP_status, status);
        let closed = guest.with(number, EVTCHNOP_close, EvtchnClose { port: far.1.port });
        let again = guest.with(number, EVTCHNOP_close, EvtchnClose { port: far.1.port });
        let control = EvtchnInitControl {
            control_gfn: SHARED >> 12,
            ..EvtchnInitControl::default()
        };
        let control = guest.with(number, EVTCHNOP_init_control, control);
        (far, ipi, sent.0, status, closed.0, again.0, control)
    });
    assert_eq!((outcome.2, outcome.4), (0, 0));
    assert_eq!(outcome.5, refused(Errno::EINVAL));
    assert_eq!(outcome.3.1.vcpu, 1);
    assert_eq!(outcome.6.1.link_bits, 17);
}

fn reservation(guest: &Guest, gfns: &[u64]) -> XenMemoryReservation {
    let gfns: Vec<_> = gfns.iter().copied().map(XenUlong).collect();
    XenMemoryReservation {
        extent_start: guest.put_all(ARRAY, &gfns),
        nr_extents: gfns.len() as u64,
        domid: DOMID_SELF,
        ..XenMemoryReservation::default()
    }
}

#[test]
fn memory_comes_and_goes() {
    let outcome = alike(|guest| {
        let number = __HYPERVISOR_memory_op;
        let pages =
            |guest: &mut Guest| guest.with(number, XENMEM_current_reservation, DOMID_SELF).0;
        let given = reservation(guest, &[0x100, 0x101, 0x102]);
        let populated = guest.with(number, XENMEM_populate_physmap, given);
        let many = pages(guest);
        // the second is there no longer
        let taken = reservation(guest, &[0x101, 0x101, 0x102]);
        let taken = guest.with(number, XENMEM_decrease_reservation, taken);
        let fewer = pages(guest);
        // more than go in one piece
        let all: Vec<u64> = (0..70).map(|at| 0x200 + at % 7 + at / 7 * 7).collect();
        let batch = reservation(guest, &all[..40]);
        let batch = guest.with(number, XENMEM_populate_physmap, batch);
        let highest = guest.with(number, XENMEM_maximum_gpfn, DOMID_SELF).0;
        (populated, many, taken, fewer, batch.0, highest)
    });
    assert_eq!((outcome.0.0, outcome.2.0), (3, 1));
    assert_eq!(outcome.1 - outcome.3, 1);
}

#[test]
fn pages_of_other_kinds_are_mapped_and_taken_out() {
    let outcome = alike(|guest| {
        let number = __HYPERVISOR_memory_op;
        let place = XenAddToPhysmap {
            domid: DOMID_SELF,
            space: XENMAPSPACE_grant_table,
            gpfn: 0x300,
            ..XenAddToPhysmap::default()
        };
        let added = guest.with(number, XENMEM_add_to_physmap, place);
        let idxs = [0, 1, u64::from(u32::MAX)].map(XenUlong);
        let gpfns = [0x301, 0x302, 0x303].map(XenUlong);
        let batch = XenAddToPhysmapBatch {
            domid: DOMID_SELF,
            space: 1,
            size: 3,
            foreign_domid: 0,
            idxs: guest.put_all(ARRAY, &idxs),
            gpfns: guest.put_all(ARRAY + 0x100, &gpfns),
            errs: ARRAY + 0x200,
        };
        let batch = guest.with(number, XENMEM_add_to_physmap_batch, batch);
        let errors: [u8; 12] = guest.get(ARRAY + 0x200);
        let gone = XenRemoveFromPhysmap {
            domid: DOMID_SELF,
            gpfn: 0x302,
            ..XenRemoveFromPhysmap::default()
        };
        let removed = guest.with(number, XENMEM_remove_from_physmap, gone);
        let twice = guest.with(number, XENMEM_remove_from_physmap, gone);
        let places = [0x301, 0x302].map(|gfn| {
            let p2m = guest.runner.domain.p2m.lock();
            let gfn = hv_core::addr::Gfn::new(gfn);
            p2m.lookup(&hv_hw::direct_map::DirectTables, gfn).is_some()
        });
        (added.0, batch.0, errors, removed.0, twice.0, places)
    });
    assert_eq!((outcome.0, outcome.1), (0, 0));
    assert_eq!(outcome.5, [true, false]);
}

#[test]
fn a_domain_is_told_the_memory_map_that_it_gave_itself_last() {
    use guest_abi::memory::{E820Entry, XENMEM_set_memory_map, XenForeignMemoryMap};
    let outcome = alike(|guest| {
        // as it is, though they overlap
        let entry = |addr, type_| E820Entry {
            addr,
            size: 0x9000,
            type_,
        };
        let entries = [entry(0x1000, 2), entry(0, 1), entry(0x10_0000, 77)];
        guest.put_all(ARRAY, &entries);
        let map = |nr_entries| XenMemoryMap {
            nr_entries,
            buffer: ARRAY,
            ..XenMemoryMap::default()
        };
        let number = __HYPERVISOR_memory_op;
        let set = |guest: &mut Guest, domid, nr_entries| {
            let arg = XenForeignMemoryMap {
                domid,
                map: map(nr_entries),
                ..XenForeignMemoryMap::default()
            };
            guest.with(number, XENMEM_set_memory_map, arg).0
        };
        let before = guest.runner.domain.heap.bytes();
        assert_eq!(set(guest, DOMID_SELF, 3), 0);
        assert_eq!(set(guest, DOMID_SELF, 1025), refused(Errno::EINVAL));
        guest.put_all(ARRAY, &[E820Entry::default(); 3]);
        let told = guest.with(number, XENMEM_memory_map, map(2));
        assert_eq!((told.0, told.1.nr_entries), (0, 2));
        assert_eq!(
            guest.get::<[u8; 60]>(ARRAY)[40..],
            [0; 20],
            "no more than wanted"
        );
        let told = guest.with(number, XENMEM_memory_map, map(5));
        assert_eq!((told.0, told.1.nr_entries), (0, 3));
        let table: [u8; 60] = guest.get(ARRAY);
        assert_eq!(table, *entries.as_bytes());
        let charged = guest.runner.domain.heap.bytes() - before;
        assert_eq!(set(guest, DOMID_SELF, 0), 0);
        assert_eq!(guest.runner.domain.heap.bytes(), before);
        let empty = guest.with(number, XENMEM_memory_map, map(5)).0;
        assert_eq!(empty, refused(Errno::ENOSYS));
        charged
    });
    assert!(outcome == 60 || outcome == 0, "{outcome} bytes");
}

#[test]
fn grants_are_listed_mapped_and_copied() {
    let outcome = alike(|guest| {
        let own = guest.runner.domain.id.get();
        let setup = GnttabSetupTable {
            dom: DOMID_SELF,
            nr_frames: 2,
            frame_list: ARRAY,
            ..GnttabSetupTable::default()
        };
        let setup = guest.array(GNTTABOP_setup_table, &[setup]);
        let nowhere = guest.get::<XenUlong>(ARRAY);
        let place = XenAddToPhysmap {
            domid: DOMID_SELF,
            space: XENMAPSPACE_grant_table,
            gpfn: TABLE >> 12,
            ..XenAddToPhysmap::default()
        };
        let placed = guest.with(__HYPERVISOR_memory_op, XENMEM_add_to_physmap, place);
        let listed = guest.array(GNTTABOP_setup_table, &setup.1);
        let somewhere = guest.get::<XenUlong>(ARRAY);
        let grant = GrantEntryV1 {
            flags: GTF_permit_access,
            domid: own,
            frame: (SHARED >> 12) as u32,
        };
        let table = guest.runner.domain.clone();
        let table = crate::domain::grants::frame(&table, 0).unwrap();
        SharedFrame::new(table)
            .unwrap()
            .write_bytes(8 * 8, grant.as_bytes());
        let size = GnttabQuerySize {
            dom: DOMID_SELF,
            ..GnttabQuerySize::default()
        };
        let size = guest.array(GNTTABOP_query_size, &[size]);
        let map = |host_addr| GnttabMapGrantRef {
            host_addr,
            flags: GNTMAP_host_map,
            ref_: 8,
            dom: own,
            ..GnttabMapGrantRef::default()
        };
        let mapped = guest.array(GNTTABOP_map_grant_ref, &[map(0x40_0000), map(0x40_1000)]);
        let unmap = mapped.1.iter().map(|map| GnttabUnmapGrantRef {
            host_addr: map.host_addr,
            handle: map.handle,
            ..GnttabUnmapGrantRef::default()
        });
        let unmap: Vec<_> = unmap.collect();
        let unmapped = guest.array(GNTTABOP_unmap_grant_ref, &unmap);
        guest.put_bytes(SHARED, b"granted");
        let copy = |offset| GnttabCopy {
            source: GnttabCopyPtr {
                u: 8,
                domid: own,
                offset: 0,
                ..GnttabCopyPtr::default()
            },
            dest: GnttabCopyPtr {
                u: AREA >> 12,
                domid: DOMID_SELF,
                offset,
                ..GnttabCopyPtr::default()
            },
            len: 7,
            flags: GNTCOPY_source_gref,
            ..GnttabCopy::default()
        };
        let copies: Vec<_> = (0..100).map(|at| copy(at * 8)).collect();
        let copied = guest.array(GNTTABOP_copy, &copies);
        let bytes: [u8; 32] = guest.get(AREA + 96 * 8);
        let without_domid =
            |copies: Vec<GnttabCopy>| copies.iter().map(|copy| copy.status).collect::<Vec<_>>();
        (
            (setup.0, nowhere.0 as u32, placed.0, listed.0, somewhere),
            size,
            (
                mapped.0,
                mapped.1.iter().map(|map| map.status).collect::<Vec<_>>(),
            ),
            (
                unmapped.0,
                unmapped.1.iter().map(|map| map.status).collect::<Vec<_>>(),
            ),
            (copied.0, without_domid(copied.1)),
            bytes,
        )
    });
    assert_eq!(outcome.0.1, u32::MAX);
    assert_eq!(outcome.0.4, XenUlong(TABLE >> 12));
    assert_eq!(outcome.2, (0, vec![GNTST_okay; 2]));
    assert_eq!(outcome.3, (0, vec![GNTST_okay; 2]));
    assert_eq!(outcome.4, (0, vec![GNTST_okay; 100]));
    assert_eq!(&outcome.5[24..31], b"granted");
}

#[test]
fn parameters_and_upcall_vectors() {
    let outcome = alike(|guest| {
        let number = __HYPERVISOR_hvm_op;
        let param = |index, value| XenHvmParam {
            domid: DOMID_SELF,
            pad: 0,
            index,
            value,
        };
        let vector = 2 << 56 | 0xF3;
        let set = guest.with(
            number,
            HVMOP_set_param,
            param(HVM_PARAM_CALLBACK_IRQ, vector),
        );
        let got = guest.with(number, HVMOP_get_param, param(HVM_PARAM_CALLBACK_IRQ, 0));
        let foreign = guest.with(number, HVMOP_set_param, param(HVM_PARAM_STORE_PFN, 1));
        let upcall = XenHvmEvtchnUpcallVector {
            vcpu: 1,
            vector: 0x55,
            ..XenHvmEvtchnUpcallVector::default()
        };
        let upcall = guest.with(number, HVMOP_set_evtchn_upcall_vector, upcall);
        (set.0, got, foreign.0, upcall.0)
    });
    assert_eq!((outcome.0, outcome.1.0, outcome.3), (0, 0, 0));
    assert_eq!(outcome.1.1.value, 2 << 56 | 0xF3);
    assert_eq!(outcome.2, refused(Errno::EPERM));
}

#[test]
fn guest_is_told_which_of_its_memory_is_ram() {
    const INFO: Gfn = Gfn::new(5000);
    let outcome = alike(|guest| {
        let domain = guest.runner.domain.clone();
        let mfn = domain.shared_info.mfn();
        space::map_special(&mut guest.runner.hw, &domain, mfn, INFO).unwrap();
        let ask = |domid, pfn| XenHvmGetMemType {
            domid,
            pfn,
            mem_type: 77,
            ..XenHvmGetMemType::default()
        };
        [
            ask(DOMID_SELF, AREA >> 12),
            ask(DOMID_SELF, INFO.as_u64()),
            ask(DOMID_SELF, INFO.as_u64() + 1),
            ask(DOMID_SELF, u64::MAX),
            ask(DOMID_FIRST_RESERVED - 1, 1),
        ]
        .map(|arg| {
            let (answer, arg) = guest.with(__HYPERVISOR_hvm_op, HVMOP_get_mem_type, arg);
            (answer, arg.mem_type)
        })
    });
    let [ram, nothing] = [(0, HVMMEM_ram_rw), (0, HVMMEM_mmio_dm)];
    let denied = (refused(Errno::EPERM), 77);
    assert_eq!(outcome, [ram, ram, nothing, nothing, denied]);
}

#[test]
fn vcpus_tell_and_are_told() {
    let outcome = alike(|guest| {
        let info = VcpuRegisterVcpuInfo {
            mfn: AREA >> 12,
            offset: 64,
            rsvd: 0,
        };
        let info = [0, 1, 0].map(|vcpu| guest.of_vcpu(VCPUOP_register_vcpu_info, vcpu, info).0);
        let runstate = guest.of_vcpu(
            VCPUOP_get_runstate_info,
            0,
            VcpuRunstateInfo {
                state: -1,
                ..VcpuRunstateInfo::default()
            },
        );
        let area = VcpuRegisterMemoryArea { addr: SHARED + 256 };
        let time = guest
            .of_vcpu(VCPUOP_register_vcpu_time_memory_area, 0, area)
            .0;
        let mul: u32 = guest.get(SHARED + 256 + 24);
        let timer = |timeout_abs_ns, flags| VcpuSetSingleshotTimer {
            timeout_abs_ns,
            flags,
            ..VcpuSetSingleshotTimer::default()
        };
        let late = guest.of_vcpu(
            VCPUOP_set_singleshot_timer,
            0,
            timer(1, VCPU_SSHOTTMR_future),
        );
        let early = guest.of_vcpu(VCPUOP_set_singleshot_timer, 0, timer(u64::MAX / 2, 0));
        let up = guest.call(__HYPERVISOR_vcpu_op, [VCPUOP_is_up.into(), 1, 0, 0, 0]);
        let never = guest.call(__HYPERVISOR_vcpu_op, [VCPUOP_up.into(), 1, 0, 0, 0]);
        (
            info,
            runstate.0,
            runstate.1.state,
            time,
            mul,
            late.0,
            early.0,
            up,
            never,
        )
    });
    let einval = refused(Errno::EINVAL);
    assert_eq!(outcome.0, [0, 0, einval]);
    assert!((0..4).contains(&outcome.2) && outcome.4 != 0);
    assert_eq!(outcome.5, refused(Errno::ETIME));
    assert_eq!((outcome.3, outcome.6, outcome.8), (0, 0, einval));
}

#[test]
fn poll_finds_its_ports() {
    let outcome = alike(|guest| {
        let events = __HYPERVISOR_event_channel_op;
        let ipi = guest.with(
            events,
            EVTCHNOP_bind_ipi,
            EvtchnBindIpi { vcpu: 0, port: 0 },
        );
        let port = ipi.1.port;
        let poll = SchedPoll {
            ports: guest.put_all(ARRAY, &[port]),
            nr_ports: 1,
            ..SchedPoll::default()
        };
        let waits = guest.with(__HYPERVISOR_sched_op, SCHEDOP_poll, poll).0;
        let polling = guest.runner.activity;
        guest.runner.wake(&mut guest.pcpu);
        let sent = guest.with(events, EVTCHNOP_send, EvtchnSend { port }).0;
        let found = guest.with(__HYPERVISOR_sched_op, SCHEDOP_poll, poll).0;
        let ready = guest.runner.activity;
        let bad = SchedShutdown { reason: 99 };
        let bad = guest.with(__HYPERVISOR_sched_op, SCHEDOP_shutdown, bad).0;
        (waits, polling, sent, found, ready, bad)
    });
    assert_eq!(outcome.1, Activity::Polling);
    assert_eq!(outcome.4, Activity::Ready);
}

#[test]
fn calls_in_one() {
    let outcome = alike(|guest| {
        let entry = |op, args: [u64; 2]| MulticallEntry {
            op,
            result: 7,
            args: [args[0], args[1], 0, 0, 0, 0],
        };
        let port = guest.put(ARRAY, EvtchnBindIpi { vcpu: 1, port: 0 });
        let batch = [
            entry(__HYPERVISOR_xen_version, [XENVER_version.into(), 0]),
            entry(
                __HYPERVISOR_event_channel_op,
                [EVTCHNOP_bind_ipi.into(), port],
            ),
            entry(__HYPERVISOR_multicall, [0, 0]),
            entry(999, [0, 0]),
        ];
        let many: Vec<_> = batch.iter().copied().cycle().take(60).collect();
        let at = guest.put_all(ARGS, &many);
        let result = guest.call(__HYPERVISOR_multicall, [at, 60, 0, 0, 0]);
        let place = |index: u64| at + index * MulticallEntry::bytes(guest.width) as u64;
        let results = (0..60).map(|index| guest.get::<MulticallEntry>(place(index)).result as u32);
        (
            result,
            results.collect::<Vec<_>>(),
            guest.get::<EvtchnBindIpi>(ARRAY).port,
        )
    });
    let [einval, enosys] = [Errno::EINVAL, Errno::ENOSYS].map(|errno| errno.to_rax() as u32);
    assert_eq!(outcome.1[..4], [0x0004_0011, 0, einval, enosys]);
    assert_eq!(outcome.2, 15);
}

/// A time of more than 32 bits, in two registers.
#[test]
fn timer_of_old_takes_its_time_in_two_halves() {
    prepare();
    let fired = |width, args: [u64; 2]| {
        let mut guest = Guest::new(width);
        let virq = EvtchnBindVirq {
            virq: VIRQ_TIMER,
            vcpu: 0,
            port: 0,
        };
        let (_, virq) = guest.with(__HYPERVISOR_event_channel_op, EVTCHNOP_bind_virq, virq);
        assert_eq!(
            guest.call(__HYPERVISOR_set_timer_op, [args[0], args[1], 0, 0, 0]),
            0
        );
        let events = guest.runner.domain.events.lock();
        events.is_pending(hv_core::evtchn::Port::new(virq.port))
    };
    assert!(fired(Width::Bits32, [1, 0]));
    assert!(fired(Width::Bits64, [1, 0x1000_0000]));
    assert!(!fired(Width::Bits32, [1, 0x1000_0000]));
}

#[test]
fn who_sets_the_callback_in_32_bit_code_has_its_shared_info_so() {
    prepare();
    for (width, version, pending, mask_of_200) in [
        (Width::Bits64, 3072, 8, 2560 + 24),
        (Width::Bits32, 2304, 4, 2176 + 24),
    ] {
        let mut guest = Guest::new(width);
        let param = XenHvmParam {
            domid: DOMID_SELF,
            pad: 0,
            index: HVM_PARAM_CALLBACK_IRQ,
            value: 1,
        };
        let shared = guest.runner.domain.shared_info;
        let before = shared.load_u32(version);
        assert_eq!(guest.with(__HYPERVISOR_hvm_op, HVMOP_set_param, param).0, 0);
        assert_ne!(shared.load_u32(version), before, "the wall clock is told");
        let number = __HYPERVISOR_event_channel_op;
        let mut port = 0;
        while port < 200 {
            port = guest
                .with(
                    number,
                    EVTCHNOP_bind_ipi,
                    EvtchnBindIpi { vcpu: 1, port: 0 },
                )
                .1
                .port;
        }
        shared.store_u32(mask_of_200, 1 << (200 % 32));
        assert_eq!(guest.with(number, EVTCHNOP_send, EvtchnSend { port }).0, 0);
        assert_eq!(shared.load_u32(2048 + 24), 1 << (200 % 32));
        assert_eq!(shared.load_u8(64), 0, "masked");
        assert_eq!(
            guest.with(number, EVTCHNOP_unmask, EvtchnUnmask { port }).0,
            0
        );
        assert_eq!(shared.load_u8(64), 1);
        assert_ne!(shared.load_u32(64 + pending), 0);
    }
}

#[test]
fn user_mode_of_either_width_makes_no_hypercalls() {
    prepare();
    for width in [Width::Bits64, Width::Bits32] {
        let mut guest = Guest::new(width);
        guest.runner.hw.system.segments[SEGMENT_SS].access = 3 << 5;
        guest.runner.hw.system.segments[SEGMENT_CS].access |= 3 << 5;
        let version = guest.call(__HYPERVISOR_xen_version, [0; 5]);
        assert_eq!(version, refused(Errno::EPERM));
    }
}

proptest! {
    /// No hypercall of 32-bit code touches more than it may, whatever its arguments: none panics, none does what the same
    /// numbers do not do in 64-bit code.
    #[test]
    fn any_call_is_answered_alike(
        number in 0..50u64, op in 0..40u64, args in prop::collection::vec(0..0x8000u64, 4), seed in prop::collection::vec(any::<u32>(), 16),
    ) {
        // those that look at time, or end it
        prop_assume!(![__HYPERVISOR_sched_op, __HYPERVISOR_multicall, __HYPERVISOR_memory_op, __HYPERVISOR_grant_table_op].contains(&number));
        prop_assume!(number != __HYPERVISOR_vcpu_op || op < u64::from(VCPUOP_get_runstate_info));
        let outcome = alike(|guest| {
            for (index, word) in (0..).zip(&seed) {
                for frame in 0..8 {
                    guest.put(frame * 0x1000 + index * 4, *word);
                }
            }
            guest.call(number, [op, args[0], args[1], args[2], args[3]])
        });
        prop_assert!(outcome > -4096);
    }
}

#[test]
fn watchdog_that_is_not_kicked_ends_its_domain() {
    let outcome = alike(|guest| {
        let set = |guest: &mut Guest, id, timeout| {
            let dog = SchedWatchdog { id, timeout };
            guest.with(__HYPERVISOR_sched_op, SCHEDOP_watchdog, dog).0
        };
        let answers = [(1, 9), (0, 1000), (0, 1000), (0, 1000), (3, 9), (2, 0)];
        let answers = answers.map(|(id, timeout)| set(guest, id, timeout));
        guest.pcpu.expire_timers();
        let early = guest.runner.domain.shutdown_reason();
        // at once
        let last = set(guest, 0, 0);
        guest.pcpu.expire_timers();
        (answers, early, last, guest.runner.domain.shutdown_reason())
    });
    let [einval, enospc] = [Errno::EINVAL, Errno::ENOSPC].map(refused);
    assert_eq!(outcome.0, [einval, 1, 2, enospc, einval, 0]);
    assert_eq!((outcome.1, outcome.2), (None, 2));
    assert_eq!(outcome.3, Some(ShutdownReason::Other(SHUTDOWN_watchdog)));
}

#[test]
fn line_does_not_take_the_place_of_a_callback_vector() {
    let vector = alike(|guest| {
        for value in [2 << 56 | 0xF3, 1, 1 << 56 | 3 << 11, 0, 3 << 56] {
            let param = XenHvmParam {
                domid: DOMID_SELF,
                pad: 0,
                index: HVM_PARAM_CALLBACK_IRQ,
                value,
            };
            assert_eq!(guest.with(__HYPERVISOR_hvm_op, HVMOP_set_param, param).0, 0);
        }
        guest.runner.domain.callback.vector()
    });
    assert_eq!(vector, Some(0xF3));
}

/// Xen takes any: what the guest has at that place of its interrupt table is its own business.
#[test]
fn callback_may_have_a_vector_that_no_interrupt_controller_has() {
    for vector in [0, 15, 255] {
        let told = alike(|guest| {
            assert_eq!(guest.runner.domain.callback.vector(), None);
            let param = XenHvmParam {
                domid: DOMID_SELF,
                pad: 0,
                index: HVM_PARAM_CALLBACK_IRQ,
                value: 2 << 56 | u64::from(vector),
            };
            assert_eq!(guest.with(__HYPERVISOR_hvm_op, HVMOP_set_param, param).0, 0);
            guest.runner.domain.callback.vector()
        });
        assert_eq!(told, Some(vector));
    }
}

/// The state that vCPU 1 is in, from the CPU that has it.
fn state_of(guest: &Guest, main: &mut CpuMain<FakeVcpu>) -> Box<VcpuState> {
    let vcpu = guest.runner.domain.vcpu(1).unwrap();
    let _ = vcpu.take_state();
    let _ = main.step();
    vcpu.take_state().unwrap()
}

#[test]
fn vcpu_starts_with_the_registers_that_it_is_given() {
    let outcome = alike(|guest| {
        let mut main = CpuMain::new(pcpu(), Scheduler::Credit2, fake);
        hand_off::spawn(&guest.runner.domain, 1).unwrap();
        let _ = main.step();
        let regs = VcpuHvmX8632 {
            ebx: 0x1234,
            eip: 0x10_0000,
            cr0: 1,
            limits: [u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0x67],
            ars: [0xC9B, 0xC93, 0xC93, 0xC93, 0x8B],
            ..VcpuHvmX8632::default()
        };
        let mut context = VcpuHvmContext {
            mode: VCPU_HVM_MODE_32B,
            pad: 1,
            cpu_regs: [0; 15],
        };
        regs.write_to_prefix(context.cpu_regs.as_mut_bytes())
            .unwrap();
        let bad = guest.of_vcpu(VCPUOP_initialise, 1, context).0;
        let early = guest.call(__HYPERVISOR_vcpu_op, [VCPUOP_up.into(), 1, 0, 0, 0]);
        context.pad = 0;
        let good = guest.of_vcpu(VCPUOP_initialise, 1, context).0;
        let again = guest.of_vcpu(VCPUOP_initialise, 1, context).0;
        let running = guest.of_vcpu(VCPUOP_initialise, 0, context).0;
        let down = state_of(guest, &mut main);
        let up = guest.call(__HYPERVISOR_vcpu_op, [VCPUOP_up.into(), 1, 0, 0, 0]);
        let after = state_of(guest, &mut main);
        let domain = guest.runner.domain.clone();
        let mut hw = FakeVcpu::default();
        while destroy::step(&domain, &mut hw) != Progress::Done {
            let _ = main.step();
        }
        (
            [bad, early, good, again, running, up],
            (down.is_up, after.is_up),
            (after.system.rip, after.system.cr0, after.regs.rbx()),
        )
    });
    let [einval, eexist] = [Errno::EINVAL, Errno::EEXIST].map(refused);
    assert_eq!(outcome.0[..3], [einval, einval, 0]);
    assert_eq!((outcome.0[3], outcome.0[5]), (eexist, 0));
    assert_eq!(outcome.1, (false, true));
    assert_eq!(outcome.2, (0x10_0000, 0x11, 0x1234));
}
