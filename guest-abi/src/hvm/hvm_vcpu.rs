//! public/hvm/hvm_vcpu.h: first state of a vCPU, as `VCPUOP_initialise` takes it from an HVM or PVH guest.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Mode: 32-bit, paging as CR0 says.
pub const VCPU_HVM_MODE_32B: u32 = 0;
/// Mode: 64-bit, flat segments.
pub const VCPU_HVM_MODE_64B: u32 = 1;

/// 32-bit registers.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct VcpuHvmX8632 {
    /// EAX.
    pub eax: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
    /// EBX.
    pub ebx: u32,
    /// ESP.
    pub esp: u32,
    /// EBP.
    pub ebp: u32,
    /// ESI.
    pub esi: u32,
    /// EDI.
    pub edi: u32,
    /// EIP.
    pub eip: u32,
    /// EFLAGS.
    pub eflags: u32,
    /// CR0.
    pub cr0: u32,
    /// CR3.
    pub cr3: u32,
    /// CR4.
    pub cr4: u32,
    /// Padding.
    pub pad1: u32,
    /// EFER.
    pub efer: u64,
    /// Bases of CS, DS, SS, ES, TR.
    pub bases: [u32; 5],
    /// Limits of CS, DS, SS, ES, TR.
    pub limits: [u32; 5],
    /// Attributes of CS, DS, SS, ES, TR: type to P in bits 7:0, AVL to G in bits 11:8.
    pub ars: [u16; 5],
    /// Padding.
    pub pad2: [u16; 3],
}

/// 64-bit registers.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct VcpuHvmX8664 {
    /// RAX.
    pub rax: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RBX.
    pub rbx: u64,
    /// RSP.
    pub rsp: u64,
    /// RBP.
    pub rbp: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

/// Argument of `VCPUOP_initialise`: `cpu_regs` holds a [`VcpuHvmX8632`] or a [`VcpuHvmX8664`] at its start, by `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VcpuHvmContext {
    /// [`VCPU_HVM_MODE_32B`] or [`VCPU_HVM_MODE_64B`].
    pub mode: u32,
    /// Must be 0.
    pub pad: u32,
    /// The registers.
    pub cpu_regs: [u64; 15],
}
