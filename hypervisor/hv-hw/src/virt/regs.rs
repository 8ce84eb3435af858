//! A vCPU's registers, in no vendor's layout.

use alloc::vec;
use alloc::vec::Vec;

use bitflags::bitflags;
use hv_core::addr::PAGE_BYTES;
use hv_core::x86::gpr;

/// The guest's general-purpose registers in the order of their encoding; RSP is kept by the hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct GuestRegs {
    /// RAX, RCX, RDX, RBX, (unused), RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
}

macro_rules! named_registers {
    ($($name:ident, $set:ident, $index:expr, $doc:expr;)*) => {
        impl GuestRegs {
            $(
                #[doc = $doc]
                #[inline]
                #[must_use]
                pub fn $name(&self) -> u64 {
                    self.gpr[$index]
                }
                #[doc = concat!("Sets ", $doc)]
                #[inline]
                pub fn $set(&mut self, value: u64) {
                    self.gpr[$index] = value;
                }
            )*
        }
    };
}

named_registers! {
    rax, set_rax, gpr::RAX, "RAX.";
    rcx, set_rcx, gpr::RCX, "RCX.";
    rdx, set_rdx, gpr::RDX, "RDX.";
    rbx, set_rbx, gpr::RBX, "RBX.";
    rsi, set_rsi, gpr::RSI, "RSI.";
    rdi, set_rdi, gpr::RDI, "RDI.";
    r8, set_r8, 8, "R8.";
    r10, set_r10, 10, "R10.";
}

impl GuestRegs {
    /// EDX:EAX as one number: the operand of WRMSR and XSETBV.
    #[inline]
    #[must_use]
    pub fn edx_eax(&self) -> u64 {
        (self.rdx() << 32) | (self.rax() & 0xFFFF_FFFF)
    }
    /// Sets EDX:EAX, clearing the upper halves as RDMSR does.
    #[inline]
    pub fn set_edx_eax(&mut self, value: u64) {
        self.set_rax(value & 0xFFFF_FFFF);
        self.set_rdx(value >> 32);
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    pub selector: u16,
    pub base: u64,
    /// The limit in bytes.
    pub limit: u32,
    /// Access rights: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16.
    pub access: u32,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DescriptorTable {
    /// The linear base address.
    pub base: u64,
    /// The limit in bytes.
    pub limit: u16,
}

bitflags! {
    /// What keeps events out of the guest, beside RFLAGS.IF.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Blocking: u8 {
        /// STI or MOV SS came right before: interrupts and NMIs wait for one instruction more.
        const SHADOW = 1;
        /// An NMI's handler runs, until IRET.
        const NMI = 2;
    }
}

bitflags! {
    /// Registers of [`SystemRegs`]: those that are asked for, or that have changed.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct SystemSet: u32 {
        /// The instruction pointer. To set it is to begin elsewhere: a single-step trap that was due is none any more.
        const RIP = 1 << 0;
        /// The stack pointer.
        const RSP = 1 << 1;
        /// RFLAGS.
        const RFLAGS = 1 << 2;
        /// What keeps events out.
        const BLOCKING = 1 << 3;
        /// CR0.
        const CR0 = 1 << 4;
        /// CR3.
        const CR3 = 1 << 5;
        /// CR4.
        const CR4 = 1 << 6;
        /// IA32_EFER.
        const EFER = 1 << 7;
        /// CS.
        const CODE = 1 << 8;
        /// SS.
        const STACK = 1 << 9;
        /// The other segment registers.
        const DATA = 1 << 10;
        /// GDTR and IDTR.
        const TABLES = 1 << 11;
        /// DR7.
        const DR7 = 1 << 12;
        /// The top entries of PAE paging, due after what turns that on. Nothing where the CPU reads them from memory.
        const PDPTES = 1 << 13;
        /// IA32_PAT.
        const PAT = 1 << 14;
        /// IA32_DEBUGCTL.
        const DEBUGCTL = 1 << 15;
        /// The MSRs of SYSENTER.
        const SYSENTER = 1 << 16;
        /// IA32_SPEC_CTRL; without effect where guests have none.
        const SPEC_CTRL = 1 << 17;
        /// The MSRs of SYSCALL, and IA32_KERNEL_GS_BASE.
        const SYSCALL = 1 << 18;
        /// IA32_TSC_AUX; 0 and without effect where the CPU has none.
        const TSC_AUX = 1 << 19;
        /// CR2.
        const CR2 = 1 << 20;
        /// DR0 to DR3, DR6.
        const DEBUG = 1 << 21;
        /// XCR0.
        const XCR0 = 1 << 22;

        /// Control registers and EFER. What the TLB has of the guest is forgotten where CR0, CR3 or CR4 is set.
        const CONTROL = Self::CR0.bits() | Self::CR3.bits() | Self::CR4.bits() | Self::EFER.bits();
        /// The eight segment registers.
        const SEGMENTS = Self::CODE.bits() | Self::STACK.bits() | Self::DATA.bits();
        /// What a start or a task switch sets.
        const CORE = Self::RIP.bits() | Self::RSP.bits() | Self::RFLAGS.bits() | Self::BLOCKING.bits()
            | Self::CONTROL.bits() | Self::SEGMENTS.bits() | Self::TABLES.bits() | Self::DR7.bits();
    }
}

impl SystemSet {
    /// What a toolstack saves and restores: what else there is follows from it.
    pub const SAVED: Self = Self::all().difference(Self::PDPTES);
    /// What vendors' sides read out of line, where an exit that is frequent does not ask.
    pub(super) const SELDOM: Self = Self::INDIRECT.difference(
        Self::CR3
            .union(Self::EFER)
            .union(Self::CODE)
            .union(Self::STACK),
    );
    /// What they write out of line.
    pub(super) const INDIRECT: Self = Self::all().difference(
        Self::RIP
            .union(Self::RSP)
            .union(Self::RFLAGS)
            .union(Self::BLOCKING),
    );
}

/// Everything of a vCPU that is neither a general-purpose register nor extended state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SystemRegs {
    /// CR0 as the guest sees it.
    pub cr0: u64,
    pub cr3: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    pub efer: u64,
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
    /// What keeps events out.
    pub blocking: Blocking,
    pub dr7: u64,
    /// ES, CS, SS, DS, FS, GS, LDTR, TR.
    pub segments: [Segment; 8],
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    /// The four top entries of PAE paging.
    pub pdptes: [u64; 4],
    pub pat: u64,
    pub debugctl: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub spec_ctrl: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u64,
    pub cr2: u64,
    /// DR0 to DR3, DR6.
    pub debug: [u64; 5],
    pub xcr0: u64,
}

impl SystemRegs {
    /// The same core registers ([`SystemSet::CORE`]), with all others as after reset.
    #[must_use]
    pub fn else_reset(self) -> Self {
        Self {
            pdptes: [0; 4],
            pat: RESET_PAT,
            debugctl: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            spec_ctrl: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            cr2: 0,
            debug: [0, 0, 0, 0, DR6_FIXED],
            xcr0: 1,
            ..self
        }
    }
}

/// IA32_PAT after reset.
pub(super) const RESET_PAT: u64 = 0x0007_0406_0007_0406;

/// What DR6 has always set; RTM, bit 16, is inverted.
pub(super) const DR6_FIXED: u64 = 0xFFFF_0FF0;

/// The address with bits 63:48 as bit 47 has it.
pub(super) fn canonical(address: u64) -> u64 {
    const UNUSED: u32 = 16;
    ((address << UNUSED).cast_signed() >> UNUSED).cast_unsigned()
}

/// DR6 after a debug exception for `reasons`: B0 to B3 are replaced, BD, BS and BT accumulate.
#[must_use]
pub const fn merge_dr6(dr6: u64, reasons: u64) -> u64 {
    (dr6 & !0xF) | (reasons & 0xE00F) | DR6_FIXED
}

/// Extended state after reset, as [`VcpuHw::extended`](super::VcpuHw::extended) has it.
#[must_use]
pub fn reset_extended() -> Vec<u8> {
    const FCW: [u8; 2] = 0x37Fu16.to_le_bytes();
    const MXCSR: [u8; 4] = 0x1F80u32.to_le_bytes();
    let mut extended = vec![0; PAGE_BYTES];
    extended[..2].copy_from_slice(&FCW);
    extended[24..28].copy_from_slice(&MXCSR);
    extended
}

/// Index of CS in [`SystemRegs::segments`].
pub const SEGMENT_CS: usize = 1;
/// Index of SS in [`SystemRegs::segments`].
pub const SEGMENT_SS: usize = 2;
/// Index of LDTR in [`SystemRegs::segments`].
pub const SEGMENT_LDTR: usize = 6;
/// Index of TR in [`SystemRegs::segments`].
pub const SEGMENT_TR: usize = 7;
/// [`Segment::access`] of CS: 64-bit code, in long mode.
pub const SEGMENT_LONG: u32 = 1 << 13;
/// [`Segment::access`]: the register holds no segment.
pub const SEGMENT_UNUSABLE: u32 = 1 << 16;
