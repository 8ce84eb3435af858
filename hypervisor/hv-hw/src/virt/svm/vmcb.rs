//! The VMCB as the CPU lays it out.
//!
//! Source: AMD APM vol. 2, appendix "Layout of VMCB".
// UNSAFETY: the VMCB is a frame outside Rust's objects, which the CPU changes while the guest runs.
#![expect(unsafe_code, reason = "a frame is reached by its address")]

use core::fmt;
use core::mem::{offset_of, size_of};
use core::ops::{Deref, DerefMut};

use hv_core::addr::{Hpa, Mfn, PAGE_BYTES};

use crate::direct_map;

/// A VMCB: controls, then the guest's state.
#[repr(C, align(4096))]
pub(super) struct Vmcb {
    /// CR reads that exit in the low half, CR writes in the high one; a bit a register.
    pub(super) cr_intercepts: u32,
    /// The same of debug registers.
    pub(super) dr_intercepts: u32,
    /// Exceptions that exit, a bit a vector.
    pub(super) exception_intercepts: u32,
    /// Events and instructions that exit, as `intercepts` names them.
    pub(super) intercepts: [u32; 3],
    reserved_018: [u32; 9],
    pub(super) pause_filter_threshold: u16,
    pub(super) pause_filter_count: u16,
    /// Address of the I/O permissions map.
    pub(super) io_map: u64,
    /// Address of the MSR permissions map.
    pub(super) msr_map: u64,
    pub(super) tsc_offset: u64,
    pub(super) asid: u32,
    /// What of the TLB VMRUN flushes.
    pub(super) tlb_control: u32,
    /// The task priority, and the virtual interrupt, as `inject` has them.
    pub(super) virtual_interrupt: u64,
    /// Bit 0: the interrupt shadow.
    pub(super) shadow: u64,
    pub(super) exit_code: u64,
    pub(super) exit_info1: u64,
    pub(super) exit_info2: u64,
    /// EXITINTINFO: the event in whose delivery the exit came.
    pub(super) exit_event: u64,
    /// Bit 0: nested paging.
    pub(super) nested_paging: u64,
    reserved_098: [u64; 2],
    /// EVENTINJ: the event that VMRUN delivers.
    pub(super) event: u64,
    /// Address of the top nested page table.
    pub(super) nested_cr3: u64,
    /// Bit 0: the registers of branch recording, DEBUGCTL among them, are the guest's.
    pub(super) branch_recording: u64,
    /// Parts of the VMCB that the CPU may have kept; never any.
    pub(super) clean: u64,
    /// Where the instruction that exited ends, on CPUs that say so.
    pub(super) next_rip: u64,
    reserved_0d0: [u64; 102],
    pub(super) state: State,
    reserved_698: [u64; 301],
}

/// The guest's state, as VMRUN and VMLOAD load it and VM exit and VMSAVE save it.
#[repr(C)]
pub(super) struct State {
    /// ES, CS, SS, DS, FS, GS.
    pub(super) segments: [Segment; 6],
    pub(super) gdtr: Segment,
    pub(super) ldtr: Segment,
    pub(super) idtr: Segment,
    pub(super) tr: Segment,
    reserved_0a0: [u8; 43],
    /// The current privilege level.
    pub(super) cpl: u8,
    reserved_0cc: u32,
    pub(super) efer: u64,
    reserved_0d8: [u64; 14],
    pub(super) cr4: u64,
    pub(super) cr3: u64,
    pub(super) cr0: u64,
    pub(super) dr7: u64,
    pub(super) dr6: u64,
    pub(super) rflags: u64,
    pub(super) rip: u64,
    reserved_180: [u64; 11],
    pub(super) rsp: u64,
    reserved_1e0: [u64; 3],
    pub(super) rax: u64,
    pub(super) star: u64,
    pub(super) lstar: u64,
    pub(super) cstar: u64,
    pub(super) fmask: u64,
    pub(super) kernel_gs_base: u64,
    pub(super) sysenter_cs: u64,
    pub(super) sysenter_esp: u64,
    pub(super) sysenter_eip: u64,
    pub(super) cr2: u64,
    reserved_248: [u64; 4],
    pub(super) pat: u64,
    pub(super) debugctl: u64,
    reserved_278: [u64; 4],
}

/// A segment register, or a descriptor table's.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub(super) selector: u16,
    /// Bits 55:52 and 47:40 of the descriptor.
    pub(super) attributes: u16,
    pub(super) limit: u32,
    pub(super) base: u64,
}

const _: () = {
    assert!(size_of::<Vmcb>() == PAGE_BYTES, "a frame");
    assert!(offset_of!(Vmcb, intercepts) == 0x00C);
    assert!(offset_of!(Vmcb, pause_filter_threshold) == 0x03C);
    assert!(offset_of!(Vmcb, io_map) == 0x040);
    assert!(offset_of!(Vmcb, asid) == 0x058);
    assert!(offset_of!(Vmcb, virtual_interrupt) == 0x060);
    assert!(offset_of!(Vmcb, exit_code) == 0x070);
    assert!(offset_of!(Vmcb, nested_paging) == 0x090);
    assert!(offset_of!(Vmcb, event) == 0x0A8);
    assert!(offset_of!(Vmcb, next_rip) == 0x0C8);
    assert!(offset_of!(Vmcb, state) == 0x400);
    assert!(offset_of!(State, gdtr) == 0x060);
    assert!(offset_of!(State, tr) == 0x090);
    assert!(offset_of!(State, cpl) == 0x0CB);
    assert!(offset_of!(State, efer) == 0x0D0);
    assert!(offset_of!(State, cr4) == 0x148);
    assert!(offset_of!(State, rflags) == 0x170);
    assert!(offset_of!(State, rsp) == 0x1D8);
    assert!(offset_of!(State, rax) == 0x1F8);
    assert!(offset_of!(State, cr2) == 0x240);
    assert!(offset_of!(State, pat) == 0x268);
    assert!(size_of::<State>() == 0x298);
};

/// A VMCB that a vCPU has for itself: who holds this may look into it, while its guest does not run.
pub(super) struct OwnVmcb {
    at: *mut Vmcb,
    address: Hpa,
}

impl OwnVmcb {
    /// Makes a zeroed frame a VMCB.
    ///
    /// # Safety
    /// The frame is in the direct map and outside Rust's objects, and nobody but the CPU that runs the vCPU reaches it
    /// as long as the value lives.
    pub(super) unsafe fn new(frame: Mfn) -> Self {
        Self {
            at: direct_map::hva(frame.base()).cast(),
            address: frame.base(),
        }
    }
    /// Its physical address, for VMRUN.
    pub(super) fn address(&self) -> Hpa {
        self.address
    }
}

impl Deref for OwnVmcb {
    type Target = Vmcb;
    #[inline(always)]
    fn deref(&self) -> &Vmcb {
        // SAFETY: a mapped frame, ours alone (`new`); any bits are a valid `Vmcb`, and no borrow lasts over VMRUN,
        // which takes the vCPU mutably.
        unsafe { &*self.at }
    }
}

impl DerefMut for OwnVmcb {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Vmcb {
        // SAFETY: as above; the borrow is exclusive.
        unsafe { &mut *self.at }
    }
}

impl fmt::Debug for OwnVmcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VMCB at {}", self.address)
    }
}
