//! A vCPU's registers, in no vendor's layout.

use alloc::vec;
use alloc::vec::Vec;

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
    /// The selector.
    pub selector: u16,
    /// The base address.
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

/// Everything of a vCPU that is neither a general-purpose register nor extended state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SystemRegs {
    /// CR0 as the guest sees it.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// DR7.
    pub dr7: u64,
    /// ES, CS, SS, DS, FS, GS, LDTR, TR.
    pub segments: [Segment; 8],
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
}

/// What the hardware keeps in the CPU itself while the vCPU has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SwitchedRegs {
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_TSC_AUX; without effect where the CPU has none.
    pub tsc_aux: u64,
    /// CR2.
    pub cr2: u64,
    /// DR0 to DR3, DR6.
    pub debug: [u64; 5],
    /// Extended state as XSAVE writes it, in 4096 bytes: the legacy area, the header, and components at their places. Where
    /// the CPU has no XSAVE, the legacy area only.
    pub extended: Vec<u8>,
}

impl SwitchedRegs {
    /// After reset.
    #[must_use]
    pub fn reset() -> Self {
        const FCW: [u8; 2] = 0x37Fu16.to_le_bytes();
        const MXCSR: [u8; 4] = 0x1F80u32.to_le_bytes();
        let mut extended = vec![0; PAGE_BYTES];
        extended[..2].copy_from_slice(&FCW);
        extended[24..28].copy_from_slice(&MXCSR);
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            cr2: 0,
            debug: [0, 0, 0, 0, 0xFFFF_0FF0],
            extended,
        }
    }
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

/// Registers that the hardware keeps for the guest, whose writes the story checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VcpuMsr {
    /// IA32_EFER.
    Efer,
    /// IA32_PAT.
    Pat,
    /// IA32_DEBUGCTL.
    DebugCtl,
    /// IA32_SYSENTER_CS.
    SysenterCs,
    /// IA32_SYSENTER_ESP.
    SysenterEsp,
    /// IA32_SYSENTER_EIP.
    SysenterEip,
    /// IA32_SPEC_CTRL.
    SpecCtrl,
}
