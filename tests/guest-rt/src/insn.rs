//! Instructions, one function each. Those that can fault are in the exception table: they go on as if nothing had
//! happened and leave a [`Fault`] behind; the `_safe` forms return it.

// UNSAFETY: single instructions.
#![expect(unsafe_code, reason = "one instruction a function")]

use crate::traps::{Fault, guarded};
use core::arch::asm;
use guest_abi::arch_x86::hvm::start_info::XEN_HVM_MEMMAP_TYPE_RAM;

/// Wraps an instruction so that a fault in it goes on behind it.
macro_rules! may_fault {
    ($insn:expr, $($rest:tt)*) => {
        asm!(
            concat!("2: ", $insn),
            "3:",
            ".pushsection .extable, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            $($rest)*
        )
    };
}

/// What CPUID returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cpuid {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// CPUID.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> Cpuid {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    Cpuid {
        eax: r.eax,
        ebx: r.ebx,
        ecx: r.ecx,
        edx: r.edx,
    }
}

/// Whether the CPU is AMD's, which has another instruction for hypercalls and other MSRs.
#[must_use]
pub fn is_amd() -> bool {
    let leaf = cpuid(0, 0);
    let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
    matches!(name.as_flattened(), b"AuthenticAMD" | b"HygonGenuine")
}

/// RDTSC behind a fence, so that what came before has finished.
#[must_use]
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// RDMSR.
///
/// # Errors
/// The fault it raised.
pub fn rdmsr_safe(msr: u32) -> Result<u64, Fault> {
    guarded(|| {
        let (mut low, mut high) = (0u32, 0u32);
        // SAFETY: reads; a fault goes on behind it with the zeros above.
        unsafe {
            may_fault!("rdmsr", in("ecx") msr, inout("eax") low, inout("edx") high, options(nostack))
        };
        u64::from(high) << 32 | u64::from(low)
    })
}

/// WRMSR.
///
/// # Errors
/// The fault it raised.
pub fn wrmsr_safe(msr: u32, value: u64) -> Result<(), Fault> {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: a test writes MSRs to see what the hypervisor does about it; nothing of Rust's rests on one.
    guarded(|| unsafe {
        may_fault!("wrmsr", in("ecx") msr, in("eax") low, in("edx") high, options(nostack))
    })
}

/// Reads XCR0; only where CR4.OSXSAVE is set.
#[must_use]
pub fn xgetbv0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// XSETBV of register `index`.
///
/// # Errors
/// The fault it raised.
pub fn xsetbv_safe(index: u32, value: u64) -> Result<(), Fault> {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: no code here uses extended state but the tests of it.
    guarded(|| unsafe {
        may_fault!("xsetbv", in("ecx") index, in("eax") low, in("edx") high, options(nostack))
    })
}

/// IN, a byte.
#[must_use]
pub fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: ports are not Rust's memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

/// IN, two bytes.
#[must_use]
pub fn inw(port: u16) -> u16 {
    let value: u16;
    // SAFETY: ports are not Rust's memory.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack)) };
    value
}

/// IN, four bytes.
#[must_use]
pub fn inl(port: u16) -> u32 {
    let value: u32;
    // SAFETY: ports are not Rust's memory.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) };
    value
}

/// OUT, a byte.
pub fn outb(port: u16, value: u8) {
    // SAFETY: ports are not Rust's memory; no device is set up to do DMA.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// OUT, four bytes.
pub fn outl(port: u16, value: u32) {
    // SAFETY: ports are not Rust's memory; no device is set up to do DMA.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
}

/// REP OUTSB of `bytes`.
pub fn outsb(port: u16, bytes: &[u8]) {
    // SAFETY: reads `bytes` only.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _,
            options(readonly, nostack));
    };
}

/// Reads 8 bytes at any address.
///
/// # Errors
/// The fault it raised.
pub fn peek(address: u64) -> Result<u64, Fault> {
    guarded(|| {
        let mut value = 0u64;
        // SAFETY: a plain load, whatever is there; a fault goes on behind it.
        unsafe {
            may_fault!("mov {0}, [{1}]", inout(reg) value, in(reg) address, options(nostack, readonly))
        };
        value
    })
}

/// Writes 8 bytes at any address.
///
/// # Errors
/// The fault it raised.
///
/// # Safety
/// What is there must not be Rust's.
pub unsafe fn poke(address: u64, value: u64) -> Result<(), Fault> {
    // SAFETY: the caller vouches for the target; a fault goes on behind it.
    guarded(|| unsafe {
        may_fault!("mov [{1}], {0}", in(reg) value, in(reg) address, options(nostack))
    })
}

/// Reads a 32-bit device register.
///
/// # Errors
/// The fault it raised.
pub fn read_mmio32(address: u64) -> Result<u32, Fault> {
    guarded(|| {
        let mut value = 0u32;
        // SAFETY: a plain load, whatever is there; a fault goes on behind it.
        unsafe {
            may_fault!("mov {0:e}, [{1}]", inout(reg) value, in(reg) address, options(nostack, readonly));
        };
        value
    })
}

/// Writes a 32-bit device register.
///
/// # Errors
/// The fault it raised.
///
/// # Panics
/// Where the address is RAM: it might be Rust's.
pub fn write_mmio32(address: u64, value: u32) -> Result<(), Fault> {
    assert_ne!(
        crate::memory::type_of(address),
        Some(XEN_HVM_MEMMAP_TYPE_RAM)
    );
    // SAFETY: no object of Rust's lies outside RAM; a fault goes on behind it.
    guarded(|| unsafe {
        may_fault!("mov [{1}], {0:e}", in(reg) value, in(reg) address, options(nostack));
    })
}

/// UD2.
///
/// # Errors
/// The fault it raised: always.
pub fn ud2_safe() -> Result<(), Fault> {
    // SAFETY: faults and goes on.
    guarded(|| unsafe { may_fault!("ud2", options(nostack)) })
}

/// The functions of [`NEVER`], by the last byte of 0F 01 xx.
macro_rules! never {
    ($($name:literal = $byte:literal),* $(,)?) => {
        [$(($name, || {
            // SAFETY: none does anything here: RAX, ECX and EDX are 0.
            guarded(|| unsafe {
                may_fault!(concat!(".byte 0x0f, 0x01, ", $byte), inout("rax") 0u64 => _, inout("ecx") 0u32 => _,
                    inout("edx") 0u32 => _, options(nostack));
            })
        })),*]
    };
}

/// Runs an instruction; the fault it raised.
pub type Attempt = fn() -> Result<(), Fault>;

/// Instructions that no guest has, of either vendor: #UD for each.
pub static NEVER: [(&str, Attempt); 12] = never! {
    "VMLAUNCH" = "0xc2",
    "VMXOFF" = "0xc4",
    "MONITOR" = "0xc8",
    "MWAIT" = "0xc9",
    "VMRUN" = "0xd8",
    "VMLOAD" = "0xda",
    "VMSAVE" = "0xdb",
    "STGI" = "0xdc",
    "CLGI" = "0xdd",
    "SKINIT" = "0xde",
    "INVLPGA" = "0xdf",
    "RDPRU" = "0xfd",
};

/// The hypercalls of Intel's CPUs and of AMD's.
pub static HYPERCALLS: [(&str, Attempt); 2] = never! { "VMCALL" = "0xc1", "VMMCALL" = "0xd9" };

/// DIV by zero.
///
/// # Errors
/// The fault it raised: always.
pub fn div_by_zero_safe() -> Result<(), Fault> {
    // SAFETY: faults and goes on.
    guarded(|| unsafe {
        may_fault!("div {0:e}", in(reg) 0u32, inout("eax") 1u32 => _, inout("edx") 0u32 => _, options(nostack));
    })
}

/// MOV to CR0.
///
/// # Errors
/// The fault it raised.
///
/// # Safety
/// The value must keep paging and protection.
pub unsafe fn set_cr0_safe(value: u64) -> Result<(), Fault> {
    // SAFETY: the caller vouches for the value.
    guarded(|| unsafe { may_fault!("mov cr0, {0}", in(reg) value, options(nostack)) })
}

/// MOV to CR4.
///
/// # Errors
/// The fault it raised.
///
/// # Safety
/// The value must keep PAE and set nothing that changes what memory means.
pub unsafe fn set_cr4_safe(value: u64) -> Result<(), Fault> {
    // SAFETY: the caller vouches for the value.
    guarded(|| unsafe { may_fault!("mov cr4, {0}", in(reg) value, options(nostack)) })
}

/// MOV from CR0.
#[must_use]
pub fn cr0() -> u64 {
    let value;
    // SAFETY: reads.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack)) };
    value
}

/// MOV from CR2.
#[must_use]
pub fn cr2() -> u64 {
    let value;
    // SAFETY: reads.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack)) };
    value
}

/// MOV from CR3.
#[must_use]
pub fn cr3() -> u64 {
    let value;
    // SAFETY: reads.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack)) };
    value
}

/// MOV from CR4.
#[must_use]
pub fn cr4() -> u64 {
    let value;
    // SAFETY: reads.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack)) };
    value
}

/// MOV from CR8.
#[must_use]
pub fn cr8() -> u64 {
    let value;
    // SAFETY: reads.
    unsafe { asm!("mov {}, cr8", out(reg) value, options(nomem, nostack)) };
    value
}

/// MOV to CR8: the priority class above which interrupts come, 0 to 15.
pub fn set_cr8(class: u8) {
    // SAFETY: decides when interrupts come, whose handlers touch atomics only.
    unsafe { asm!("mov cr8, {}", in(reg) u64::from(class & 15), options(nostack)) };
}

/// MOV to CR3 of what it holds: flushes the TLB.
pub fn flush_tlb() {
    // SAFETY: the address space stays what it is.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack)) };
}

/// CLI.
pub fn cli() {
    // SAFETY: without interrupts, nothing happens behind Rust's back.
    unsafe { asm!("cli", options(nostack)) };
}

/// STI, and one instruction for it to take effect.
pub fn sti() {
    // SAFETY: handlers touch atomics only.
    unsafe { asm!("sti", "nop", options(nostack)) };
}

/// STI and HLT: sleeps until an interrupt; interrupts are off again after.
pub fn sti_hlt_cli() {
    // SAFETY: handlers touch atomics only.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// HLT with interrupts off, for ever.
pub fn halt_for_ever() -> ! {
    loop {
        // SAFETY: stops.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    }
}

/// RFLAGS.
#[must_use]
pub fn rflags() -> u64 {
    let value;
    // SAFETY: a push and a pop.
    unsafe { asm!("pushfq", "pop {}", out(reg) value) };
    value
}

/// PAUSE.
pub fn pause() {
    core::hint::spin_loop();
}
