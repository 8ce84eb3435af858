//! A new VMCS: controls from the capabilities, and the parts of guest state that never change.

use core::ops::Range;

use hv_core::addr::{Hpa, Mfn};
use hv_core::device::lapic::InterruptStatus;
use hv_core::msr::PassthroughList;
use hv_core::speculation::Plan;

use super::super::regs::RESET_PAT;
use super::super::{
    ExtendedState, IoBitmap, Rights, SEGMENT_UNUSABLE, Stage2Root, TscView, VcpuConfig,
};
use super::apic;
use super::caps::Caps;
use super::fields::{Field, Pin, Primary, Secondary};
use super::msr_bitmap::{MsrAccess, MsrBitmap};
use super::probe::Vtx;
use super::registers::{CR0_OWNED, CR4_REQUIRED};
use super::vmcs::CurrentVmcs;
use super::vpid::Vpid;
use crate::irq::vectors;

/// #DB and #AC, which a guest could make deliver each other without end inside the CPU (the run loop ends what
/// goes on outside), and #MC, which is the host's.
const EXCEPTIONS: u64 = (1 << 1) | (1 << 17) | (1 << 18);
const EPT_WRITE_BACK: u64 = 6;
const EPT_FOUR_LEVELS: u64 = 3 << 3;
const EPT_ACCESSED_DIRTY: u64 = 1 << 6;
const TSC_RATIO_ONE: u64 = 1 << 48;
const NO_VMCS: u64 = u64::MAX;
/// Ticks between two PAUSEs of one loop, and that such a loop may take: as Xen has them (`ple_gap`, `ple_window`).
const PLE_GAP: u64 = 128;
const PLE_WINDOW: u64 = 4096;
/// Ticks without an instruction boundary; the CPU adds what no instruction that ends can take.
const NOTIFY_WINDOW: u64 = 0;
/// Every leaf of ENCLS and ENCLV.
const ALL_LEAVES: u64 = u64::MAX;
/// The registers of the local APIC.
const X2APIC_MSRS: Range<u32> = 0x800..0x840;

/// What a VMCS is made of.
#[derive(Debug)]
pub(super) struct Setup {
    /// What this vCPU uses of the CPU.
    pub(super) caps: Caps,
    /// Extended state that guests may have.
    pub(super) extended: ExtendedState,
    /// What is done against leaks by speculation.
    pub(super) speculation: Plan,
    pub(super) vmcs: Mfn,
    pub(super) xsave_area: Mfn,
    pub(super) apic_page: Mfn,
    pub(super) posted_interrupts: Hpa,
    pub(super) io_bitmap: IoBitmap,
    pub(super) msr_bitmap: MsrBitmap,
    /// What `msr_bitmap` lets through.
    passthrough: PassthroughList,
    /// `None` where the CPU has no such tags, or none was left: VM entry and exit drop the TLB then.
    pub(super) vpid: Option<Vpid>,
    pub(super) stage2: Stage2Root,
    pub(super) tsc: TscView,
    pub(super) cr4_owned: u64,
}

impl Setup {
    pub(super) fn new(vtx: &Vtx, config: &VcpuConfig<'_>) -> Self {
        let mut caps = vtx.caps;
        let vpid = caps
            .secondary
            .contains(Secondary::VPID)
            .then(Vpid::alloc)
            .flatten();
        caps.secondary.set(Secondary::VPID, vpid.is_some());
        caps.primary
            .set(Primary::RDTSC, config.rights.intercepts_tsc);
        let mut setup = Self {
            caps,
            extended: vtx.extended,
            speculation: vtx.speculation,
            vmcs: config.control_block,
            xsave_area: config.xsave_area,
            apic_page: config.apic_page,
            posted_interrupts: config.posted_interrupts,
            io_bitmap: config.rights.io_bitmap,
            msr_bitmap: MsrBitmap::new(config.msr_bitmap.start),
            vpid,
            stage2: config.stage2,
            passthrough: PassthroughList::new(),
            tsc: config.rights.tsc,
            cr4_owned: 0,
        };
        setup.set_rights(&config.rights);
        setup
    }

    /// Takes these up, for [`write_rights`]; true where the MSRs are others than before, and none of the local APIC's
    /// among them.
    pub(super) fn set_rights(&mut self, rights: &Rights<'_>) -> bool {
        self.io_bitmap = rights.io_bitmap;
        self.cr4_owned = rights.cr4_owned;
        self.tsc = rights.tsc;
        let is_other = self.passthrough != *rights.passthrough;
        if is_other {
            self.allow(rights.passthrough);
        }
        is_other
    }

    /// Lets the guest reach these MSRs itself, and no others.
    fn allow(&mut self, passthrough: &PassthroughList) {
        self.passthrough.clone_from(passthrough);
        self.msr_bitmap = MsrBitmap::new(self.msr_bitmap.frame());
        let mut allow = |msr, access, is_allowed: bool| {
            if is_allowed {
                self.msr_bitmap.allow(msr, access);
            }
        };
        for pass in passthrough {
            allow(pass.msr, MsrAccess::Read, pass.read);
            allow(pass.msr, MsrAccess::Write, pass.write);
        }
    }

    /// Lets the guest reach those registers of the local APIC's x2APIC mode that the CPU serves, or none: an access
    /// that exits neither nor is virtualised is to the host's own.
    pub(super) fn show_x2apic(&mut self, is_on: bool) {
        let apic = self.caps.apic_virtualization();
        for msr in X2APIC_MSRS {
            self.msr_bitmap.deny(msr);
            for (access, is_served) in [
                (MsrAccess::Read, apic.reads(msr)),
                (MsrAccess::Write, apic.writes(msr)),
            ] {
                if is_on && is_served {
                    self.msr_bitmap.allow(msr, access);
                }
            }
        }
    }
}

/// Writes everything but the registers of the guest and the state of the host.
pub(super) fn write_all(vmcs: CurrentVmcs, config: &Setup, eptp: u64) {
    write_controls(vmcs, config);
    write_addresses(vmcs, config, eptp);
    write_fixed_guest_state(vmcs);
    vmcs.write(Field::Cr0Mask, CR0_OWNED);
    write_rights(vmcs, config);
}

/// Writes what the guest may do without an exit; its MSRs are in the bitmap.
pub(super) fn write_rights(vmcs: CurrentVmcs, config: &Setup) {
    let ports = config.io_bitmap.first();
    vmcs.write(Field::IoBitmapA, ports.base().as_u64());
    vmcs.write(Field::IoBitmapB, (ports + 1).base().as_u64());
    vmcs.write(Field::Cr4Mask, config.cr4_owned | CR4_REQUIRED);
    vmcs.write(Field::TscOffset, config.tsc.offset);
}

/// The EPT pointer of a root.
pub(super) fn ept_pointer(caps: &Caps, root: Stage2Root) -> u64 {
    let flags = EPT_WRITE_BACK | EPT_FOUR_LEVELS;
    let flags = if caps.ept_accessed_dirty {
        flags | EPT_ACCESSED_DIRTY
    } else {
        flags
    };
    root.table.base().as_u64() | flags
}

fn write_controls(vmcs: CurrentVmcs, config: &Setup) {
    let caps = &config.caps;
    vmcs.write(Field::PinControls, u64::from(caps.pin.bits()));
    vmcs.write(Field::PrimaryControls, u64::from(caps.primary.bits()));
    let secondary = secondary(caps, false);
    vmcs.write(Field::SecondaryControls, u64::from(secondary.bits()));
    vmcs.write(Field::ExitControls, u64::from(caps.exit.bits()));
    vmcs.write(Field::EntryControls, u64::from(caps.entry.bits()));
    vmcs.write(Field::ExceptionBitmap, EXCEPTIONS);
    for zero in [
        Field::PageFaultMask,
        Field::PageFaultMatch,
        Field::Cr3TargetCount,
        Field::ExitMsrStoreCount,
        Field::ExitMsrLoadCount,
        Field::EntryMsrLoadCount,
        Field::EntryEvent,
    ] {
        vmcs.write(zero, 0);
    }
    let vpid = config.vpid.as_ref().map_or(0, |vpid| u64::from(vpid.get()));
    // fields that exist only with the control that reads them
    for (control, field, value) in [
        (Secondary::TSC_SCALING, Field::TscMultiplier, TSC_RATIO_ONE),
        (Secondary::XSAVES, Field::XssExitingBitmap, 0),
        (Secondary::VPID, Field::Vpid, vpid),
        (Secondary::PAUSE_LOOP, Field::PleGap, PLE_GAP),
        (Secondary::PAUSE_LOOP, Field::PleWindow, PLE_WINDOW),
        (Secondary::ENCLS, Field::EnclsExitingBitmap, ALL_LEAVES),
        (Secondary::ENCLV, Field::EnclvExitingBitmap, ALL_LEAVES),
        (
            Secondary::INSTRUCTION_TIMEOUT,
            Field::NotifyWindow,
            NOTIFY_WINDOW,
        ),
    ] {
        if caps.secondary.contains(control) {
            vmcs.write(field, value);
        }
    }
}

/// The secondary controls, by whether the guest's local APIC is in x2APIC mode.
pub(super) fn secondary(caps: &Caps, is_x2apic: bool) -> Secondary {
    if is_x2apic {
        caps.secondary
    } else {
        caps.secondary - Secondary::VIRTUAL_X2APIC
    }
}

fn write_addresses(vmcs: CurrentVmcs, config: &Setup, eptp: u64) {
    vmcs.write(Field::MsrBitmap, config.msr_bitmap.frame().base().as_u64());
    vmcs.write(Field::EptPointer, eptp);
    if config.caps.has_tpr_shadow() {
        vmcs.write(Field::VirtualApicPage, config.apic_page.base().as_u64());
        vmcs.write(Field::TprThreshold, 0);
    }
    if config.caps.has_interrupt_delivery() {
        apic::set_status(vmcs, InterruptStatus::default());
        apic::set_eoi_exits(vmcs, &[0; 4]);
    }
    if config.caps.pin.contains(Pin::POSTED_INTERRUPTS) {
        vmcs.write(
            Field::PostedInterruptDescriptor,
            config.posted_interrupts.as_u64(),
        );
        vmcs.write(
            Field::PostedInterruptVector,
            u64::from(vectors::POSTED_INTERRUPT),
        );
    }
}

fn write_fixed_guest_state(vmcs: CurrentVmcs) {
    vmcs.write(Field::LinkPointer, NO_VMCS);
    vmcs.write(Field::GuestPat, RESET_PAT);
    for zero in [
        Field::GuestDebugCtl,
        Field::Activity,
        Field::Interruptibility,
        Field::PendingDebug,
        Field::GuestSysenterCs,
        Field::GuestSysenterEsp,
        Field::GuestSysenterEip,
    ] {
        vmcs.write(zero, 0);
    }
    for index in 0..8 {
        vmcs.write(access(index), u64::from(SEGMENT_UNUSABLE));
    }
}

/// The selector field of the guest's segment register `index` (0 to 7, in the order of `SystemRegs::segments`).
pub(super) fn selector(index: usize) -> Field {
    const FIELDS: [Field; 8] = [
        Field::GuestEsSelector,
        Field::GuestCsSelector,
        Field::GuestSsSelector,
        Field::GuestDsSelector,
        Field::GuestFsSelector,
        Field::GuestGsSelector,
        Field::GuestLdtrSelector,
        Field::GuestTrSelector,
    ];
    FIELDS[index]
}

/// The base field of the guest's segment register `index` (0 to 7, in the order of `SystemRegs::segments`).
pub(super) fn base(index: usize) -> Field {
    const FIELDS: [Field; 8] = [
        Field::GuestEsBase,
        Field::GuestCsBase,
        Field::GuestSsBase,
        Field::GuestDsBase,
        Field::GuestFsBase,
        Field::GuestGsBase,
        Field::GuestLdtrBase,
        Field::GuestTrBase,
    ];
    FIELDS[index]
}

/// The limit field of the guest's segment register `index` (0 to 7, in the order of `SystemRegs::segments`).
pub(super) fn limit(index: usize) -> Field {
    const FIELDS: [Field; 8] = [
        Field::GuestEsLimit,
        Field::GuestCsLimit,
        Field::GuestSsLimit,
        Field::GuestDsLimit,
        Field::GuestFsLimit,
        Field::GuestGsLimit,
        Field::GuestLdtrLimit,
        Field::GuestTrLimit,
    ];
    FIELDS[index]
}

/// The access-rights field of the guest's segment register `index` (0 to 7, in the order of `SystemRegs::segments`).
pub(super) fn access(index: usize) -> Field {
    const FIELDS: [Field; 8] = [
        Field::GuestEsAccess,
        Field::GuestCsAccess,
        Field::GuestSsAccess,
        Field::GuestDsAccess,
        Field::GuestFsAccess,
        Field::GuestGsAccess,
        Field::GuestLdtrAccess,
        Field::GuestTrAccess,
    ];
    FIELDS[index]
}

/// The field of PDPTE `index` (0 to 3).
pub(super) fn pdpte(index: usize) -> Field {
    [
        Field::GuestPdpte0,
        Field::GuestPdpte1,
        Field::GuestPdpte2,
        Field::GuestPdpte3,
    ][index]
}
