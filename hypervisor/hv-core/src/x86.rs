//! Bits of the CPU's registers, for whoever asks or sets one. Source: Intel SDM vol. 3A, "Control Registers", "Extended Feature
//! Enable Register"; vol. 1, "EFLAGS Register".

/// CR0.PE: protected mode.
pub const CR0_PE: u64 = 1 << 0;
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
