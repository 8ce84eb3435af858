//! How a domain is made: dom0 and every other the same way, from a [`DomainConfig`] and, for dom0, the memory that it
//! has already.
//!
//! All that its making takes is allocated here, so that a lack of memory is the caller's error and nothing is left
//! behind. Its vCPUs get what they run on with `pcpu::hand_off`.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_hw::sync::atomic::{AtomicBool, AtomicU16, AtomicU32};

use arrayvec::ArrayString;
use guest_abi::errno::Errno;
use hv_core::addr::{Gfn, PAGE_BYTES, PageOrder};
use hv_core::cpuid::{Vendor, apic_id};
use hv_core::device::ports::{BITMAP_BYTES, PortMap};
use hv_core::device::posted::{DESCRIPTOR_BYTES, PostedInterrupts};
use hv_core::domid::DomId;
use hv_core::evtchn::EventChannels;
use hv_core::image::e820::E820Map;
use hv_core::p2m::{P2m, P2mConfig};
use hv_core::vcpu::VcpuId;
use hv_core::vcpu::time::PvClock;
use hv_hw::console::log::GuestLog;
use hv_hw::direct_map::SharedFrame;
use hv_hw::sync::RankedLock;
use hv_hw::time;
use hv_hw::virt::{IoBitmap, Stage2Root, TscView};

use crate::domain::devices::Devices;
use crate::domain::grants::{DEFAULT_GRANT_FRAMES, DEFAULT_MAPTRACK_FRAMES, Grants};
use crate::domain::policies::STAGE2_BITS;
use crate::domain::share::HeapShare;
use crate::domain::space::Limits;
use crate::domain::vcpu::Vcpu;
use crate::domain::{Callback, Domain, Lifecycle, PauseReasons, Policies, domains};
use crate::machine::host::{self, host};
use crate::machine::memory::{self, OwnFrame, SpecialFrame, Tables};
use crate::machine::pinned::Pinned;

/// The most vCPUs of a domain (`public/hvm/hvm_info_table.h, HVM_MAX_VCPUS`).
pub(crate) const MAX_VCPUS: u16 = 128;
/// The highest port of the FIFO ABI.
pub(crate) const MAX_PORT: u32 = (1 << 17) - 1;
/// The usual share of the CPU.
pub(crate) const DEFAULT_WEIGHT: u16 = 256;

/// What a domain is made with, and keeps: `public/domctl.h, xen_domctl_createdomain`, its numbers checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DomainConfig {
    /// It owns the devices and may manage others.
    pub is_hardware: bool,
    /// vCPUs, from 1 to [`MAX_VCPUS`].
    pub vcpus: u16,
    pub flags: u32,
    pub emulation_flags: u32,
    /// Bit 0: unknown MSRs read as 0; told, not acted upon.
    pub misc_flags: u32,
    /// Security label, told only.
    pub ssidref: u32,
    pub handle: [u8; 16],
    /// The highest event port that it may open.
    pub max_port: u32,
    /// Frames that its grant table may grow to.
    pub max_grant_frames: u32,
    /// Frames that may track its mappings of others' grants.
    pub max_maptrack_frames: u32,
}

impl DomainConfig {
    /// dom0's, which has no toolstack to say.
    #[must_use]
    pub(crate) const fn dom0(vcpus: u16) -> Self {
        Self {
            is_hardware: true,
            vcpus,
            flags: guest_abi::domctl::XEN_DOMCTL_CDF_hvm | guest_abi::domctl::XEN_DOMCTL_CDF_hap,
            emulation_flags: guest_abi::xen::XEN_X86_EMU_LAPIC
                | guest_abi::xen::XEN_X86_EMU_IOAPIC
                | guest_abi::xen::XEN_X86_EMU_VPCI,
            misc_flags: 0,
            ssidref: 0,
            handle: [0; 16],
            max_port: MAX_PORT,
            max_grant_frames: DEFAULT_GRANT_FRAMES,
            max_maptrack_frames: DEFAULT_MAPTRACK_FRAMES,
        }
    }
}

/// What only dom0 has from the start; others get nothing but what [`domain`] makes.
pub(crate) struct DomainResources {
    pub p2m: P2m,
    /// The map that it is told.
    pub e820: E820Map,
    /// How many frames of RAM are in it: as many as it may have, until a toolstack says otherwise.
    pub pages: u64,
    pub ports: PortMap,
    pub devices: Devices,
}

impl DomainResources {
    /// Of a guest: an empty address space and no device.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn none() -> Result<Self, Errno> {
        Ok(Self {
            p2m: P2m::new(&mut Tables, p2m_config()).ok_or(Errno::ENOMEM)?,
            e820: E820Map::default(),
            pages: 0,
            ports: PortMap::guest(),
            devices: Devices::none(),
        })
    }
}

/// How second-stage tables are laid out on this machine, for a domain without devices.
#[must_use]
pub(crate) fn p2m_config() -> P2mConfig {
    let host = host();
    P2mConfig {
        format: host.features.stage2,
        max_order: match (host.features.stage2_1g, host.features.stage2_2m) {
            (true, _) => PageOrder::SIZE_1G,
            (false, true) => PageOrder::SIZE_2M,
            (false, false) => PageOrder::SIZE_4K,
        },
        large_executable: large_pages_may_be_executed(),
        heeds_pat: false,
        gfn_limit: Gfn::new(1 << (STAGE2_BITS - 12)),
    }
}

/// CPUs with the page-size-change erratum (CVE-2018-12207) may hang on an executable large page that is split:
/// IA32_ARCH_CAPABILITIES.IF_PSCHANGE_MC_NO says that this one does not. None of AMD's does.
fn large_pages_may_be_executed() -> bool {
    const IF_PSCHANGE_MC_NO: u64 = 1 << 6;
    let host = host();
    let is_immune =
        host.cpuid.vendor() == Vendor::Amd || host.msrs.arch_capabilities & IF_PSCHANGE_MC_NO != 0;
    host.options.features.exec_sp.unwrap_or(is_immune)
}

/// Makes the domain `id`, which nobody knows yet: paused where a toolstack makes it, with none of its vCPUs started.
///
/// # Errors
/// ENOMEM.
pub(crate) fn domain(
    id: DomId,
    config: DomainConfig,
    mut own: DomainResources,
) -> Result<Domain, Errno> {
    let parts = match parts(id, &config, &own.ports) {
        Ok(parts) => parts,
        Err(errno) => {
            own.p2m.end(&mut Tables);
            return Err(errno);
        }
    };
    let (tsc, clock) = time();
    let mut lifecycle = Lifecycle::new(config.handle);
    let mut pause_reasons = PauseReasons::empty();
    if !config.is_hardware {
        lifecycle.pauses = 1;
        pause_reasons = PauseReasons::PAUSED;
    }
    let domain = Domain {
        id,
        is_hardware: config.is_hardware,
        config,
        policies: RankedLock::new(Policies::of_host(id, config.vcpus)),
        ports: own.ports,
        io_bitmap: parts.io_bitmap,
        e820: own.e820,
        stage2: Stage2Root {
            table: own.p2m.root(),
        },
        tsc,
        host_clock: clock,
        shared_info: parts.shared_info.shared(),
        vcpus: parts.vcpus,
        p2m: RankedLock::new(own.p2m),
        grants: Grants::new(id, config.max_grant_frames, config.max_maptrack_frames),
        events: RankedLock::new(parts.events),
        devices: RankedLock::new(own.devices),
        lifecycle: RankedLock::new(lifecycle),
        pollers: AtomicU32::new(0),
        callback: Callback::default(),
        log: GuestLog::new(id),
        debug_line: RankedLock::new(ArrayString::new()),
        limits: Limits::new(own.pages),
        heap: HeapShare::new(config.is_hardware),
        has_runstate_flag: AtomicBool::new(false),
        weight: AtomicU16::new(DEFAULT_WEIGHT),
        cap: AtomicU16::new(0),
        pause_reasons: AtomicU32::new(pause_reasons.bits()),
        runners: AtomicU32::new(0),
        _descriptors: parts.descriptors,
        _shared_info: parts.shared_info,
    };
    tell_time(&domain);
    Ok(domain)
}

/// Gives each vCPU what it computes time by.
fn tell_time(domain: &Domain) {
    let events = domain.events.lock();
    for index in 0..domain.config.vcpus {
        events.write_time(index, &domain.clock());
    }
}

/// What can fail of a domain's making.
struct Allocations {
    io_bitmap: IoBitmap,
    shared_info: SpecialFrame,
    events: EventChannels<Pinned>,
    vcpus: Vec<Arc<Vcpu>>,
    descriptors: Vec<OwnFrame>,
}

fn parts(id: DomId, config: &DomainConfig, ports: &PortMap) -> Result<Allocations, Errno> {
    if !memory::heap_has_room() && !config.is_hardware {
        return Err(Errno::ENOMEM);
    }
    let io_bitmap = if config.is_hardware {
        io_bitmap(ports)?
    } else {
        guest_io_bitmap()?
    };
    let shared_info = SpecialFrame::alloc(id).ok_or(Errno::ENOMEM)?;
    let pinned = Pinned::new(shared_info.mfn(), id).ok_or(Errno::ENOMEM)?;
    let events = EventChannels::new(id, pinned, config.vcpus, config.max_port);
    let (descriptors, vcpus) = vcpus(id, config)?;
    Ok(Allocations {
        io_bitmap,
        shared_info,
        events,
        vcpus,
        descriptors,
    })
}

/// Makes the vCPUs, with a posted-interrupt descriptor each. dom0's first is up from the start; a toolstack starts
/// others'.
fn vcpus(id: DomId, config: &DomainConfig) -> Result<(Vec<OwnFrame>, Vec<Arc<Vcpu>>), Errno> {
    let descriptors_per_frame = PAGE_BYTES / DESCRIPTOR_BYTES;
    let frames = usize::from(config.vcpus).div_ceil(descriptors_per_frame);
    let descriptors: Vec<OwnFrame> = (0..frames)
        .map(|_| OwnFrame::alloc().ok_or(Errno::ENOMEM))
        .collect::<Result<_, _>>()?;
    let vcpus = (0..config.vcpus)
        .map(|index| {
            let slot = usize::from(index);
            let frame = descriptors
                .get(slot / descriptors_per_frame)
                .map(OwnFrame::shared);
            let frame = frame.expect("there is a frame for every so many descriptors");
            let posted =
                PostedInterrupts::new(frame, slot % descriptors_per_frame * DESCRIPTOR_BYTES);
            let is_up = config.is_hardware && index == 0;
            let id = VcpuId { domid: id, index };
            Arc::new(Vcpu::new(id, apic_id(u32::from(index)), posted, is_up))
        })
        .collect();
    Ok((descriptors, vcpus))
}

/// The guest's TSC starts at 0 now, its system time is the machine's.
fn time() -> (TscView, PvClock) {
    let now = time::now();
    let tsc = TscView {
        offset: now.wrapping_neg(),
    };
    let clock = PvClock {
        tsc_timestamp: 0,
        system_time_ns: host::ns_at(now),
        scale: host::clock(),
        is_tsc_stable: true,
    };
    (tsc, clock)
}

/// All guests exit on the same ports: on every one.
fn guest_io_bitmap() -> Result<IoBitmap, Errno> {
    let shared = &domains().guest_io_bitmap;
    match shared.get() {
        Some(bitmap) => Ok(*bitmap),
        None => {
            let bitmap = io_bitmap(&PortMap::guest())?;
            Ok(*shared.call_once(|| bitmap))
        }
    }
}

fn io_bitmap(ports: &PortMap) -> Result<IoBitmap, Errno> {
    let mut bits = Box::new([0; BITMAP_BYTES]);
    ports.write_bitmap(&mut bits);
    let frames = memory::alloc_own_block(host().features.io_bitmap).ok_or(Errno::ENOMEM)?;
    Ok(IoBitmap::new(frames, &bits))
}

/// Prepares what all guests share, so that the first one's making takes no more than another's.
pub(crate) fn prepare() {
    // where memory is out, the first guest will find out
    let _ = guest_io_bitmap();
}

impl SpecialFrame {
    fn shared(&self) -> SharedFrame {
        SharedFrame::new(self.mfn()).expect("frames of ours are in the direct map")
    }
}

impl OwnFrame {
    /// As memory that others write as well.
    #[must_use]
    pub(crate) fn shared(&self) -> SharedFrame {
        SharedFrame::new(self.mfn()).expect("frames of ours are in the direct map")
    }
}
