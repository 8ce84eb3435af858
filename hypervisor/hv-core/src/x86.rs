//! Bits of the CPU's registers, for whoever asks or sets one. Source: Intel SDM vol. 3A, "Control Registers",
//! "Extended Feature Enable Register", "Debug Registers", "Segment Descriptors", "Interrupt 14"; vol. 1,
//! "EFLAGS Register".

/// CR0.PE: protected mode.
pub const CR0_PE: u64 = 1 << 0;
/// CR0.TS: the next use of the FPU raises #NM.
pub const CR0_TS: u64 = 1 << 3;
/// CR0.ET: always set.
pub const CR0_ET: u64 = 1 << 4;
/// CR0.NE: numeric errors raise exceptions.
pub const CR0_NE: u64 = 1 << 5;
/// CR0.WP: supervisors heed read-only pages.
pub const CR0_WP: u64 = 1 << 16;
/// CR0.NW: not write-through.
pub const CR0_NW: u64 = 1 << 29;
/// CR0.CD: caches are off.
pub const CR0_CD: u64 = 1 << 30;
/// CR0.PG: paging.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.PSE: large pages in 32-bit tables.
pub const CR4_PSE: u64 = 1 << 4;
/// CR4.PAE: entries of 64 bits.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.MCE: machine checks raise exceptions.
pub const CR4_MCE: u64 = 1 << 6;
/// CR4.LA57: five levels of tables.
pub const CR4_LA57: u64 = 1 << 12;
/// CR4.VMXE: VMX.
pub const CR4_VMXE: u64 = 1 << 13;
/// CR4.PCIDE: process-context identifiers.
pub const CR4_PCIDE: u64 = 1 << 17;
/// CR4.OSXSAVE: XSAVE and its like.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4.PKE: protection keys of user pages.
pub const CR4_PKE: u64 = 1 << 22;
/// EFER.LME: long mode is wanted.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA: long mode is on.
pub const EFER_LMA: u64 = 1 << 10;
/// RFLAGS.FIXED: always set.
pub const RFLAGS_FIXED: u64 = 1 << 1;
/// RFLAGS.TF: a trap after each instruction.
pub const RFLAGS_TF: u64 = 1 << 8;
/// RFLAGS.IF: maskable interrupts are taken.
pub const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS.DF: string instructions go down.
pub const RFLAGS_DF: u64 = 1 << 10;
/// RFLAGS.NT: the task is nested in another.
pub const RFLAGS_NT: u64 = 1 << 14;
/// RFLAGS.RF: no breakpoint at the instruction.
pub const RFLAGS_RF: u64 = 1 << 16;
/// RFLAGS.VM: virtual-8086 mode.
pub const RFLAGS_VM: u64 = 1 << 17;
/// DR6 after reset.
pub const DR6_RESET: u64 = 0xFFFF_0FF0;
/// DR6.BS: a single step.
pub const DR6_BS: u64 = 1 << 14;
/// DR6.BT: a task switch came upon a TSS that asks for a trap.
pub const DR6_BT: u64 = 1 << 15;
/// DR7 after reset: the one bit that is always set.
pub const DR7_RESET: u64 = 1 << 10;
/// Numbers of general-purpose registers in the order of their encoding; R8 to R15 are 8 to 15 (vol. 2A, "ModR/M and SIB
/// Bytes").
pub mod gpr {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
}
/// The lowest vector that an interrupt may have (vol. 3A, "Valid Interrupt Vectors").
pub const FIRST_LEGAL_VECTOR: u8 = 16;
/// Vectors of exceptions (vol. 3A, "Exception and Interrupt Reference").
pub mod vector {
    /// #DB.
    pub const DEBUG: u8 = 1;
    /// #UD.
    pub const UNDEFINED: u8 = 6;
    /// #TS.
    pub const INVALID_TSS: u8 = 10;
    /// #NP.
    pub const NOT_PRESENT: u8 = 11;
    /// #SS.
    pub const STACK: u8 = 12;
    /// #GP.
    pub const PROTECTION: u8 = 13;
    /// #PF.
    pub const PAGE_FAULT: u8 = 14;
    /// #MC.
    pub const MACHINE_CHECK: u8 = 18;
}
/// Bits of a page fault's error code.
pub mod page_fault {
    /// The page is there.
    pub const PRESENT: u32 = 1 << 0;
    /// It was written to.
    pub const WRITE: u32 = 1 << 1;
    /// An entry has bits set that are reserved.
    pub const RESERVED: u32 = 1 << 3;
}
/// Bits of a segment's access rights, as far as all layouts have them.
pub mod access {
    /// Type of a code or data segment: it was loaded once.
    pub const ACCESSED: u32 = 1 << 0;
    /// Type of a data segment: may be written to; of a code segment: may be read.
    pub const WRITABLE: u32 = 1 << 1;
    /// Type of a TSS: its task runs, or another is nested in it.
    pub const BUSY: u32 = 1 << 1;
    /// Type of a code or data segment: code.
    pub const CODE: u32 = 1 << 3;
    /// S: no system segment.
    pub const CODE_OR_DATA: u32 = 1 << 4;
    /// P.
    pub const PRESENT: u32 = 1 << 7;
}
