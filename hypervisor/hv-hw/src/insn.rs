//! Privileged instructions that the `x86_64` crate lacks, one function each.
//!
//! UNSAFETY: inline assembly is the only way to reach them.
//!
//! They compile on the host too, where nothing calls them. Functions are safe where every argument leaves memory and
//! control flow as Rust expects them, whatever the instruction does to the machine; the others say what they need.
#![expect(unsafe_code)]

use core::arch::asm;

/// Reads the time-stamp counter, in ticks since reset. Not ordered against the instructions around it.
#[inline]
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC only writes EDX:EAX; the hypervisor runs in ring 0, where CR4.TSD does not forbid it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads model-specific register `msr`.
///
/// # Safety
/// The CPU must have the MSR, or the #GP it raises must be caught (see `cpu::msr::rdmsr_safe`).
#[inline]
#[must_use]
pub unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the MSR; RDMSR writes EDX:EAX only.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes `value` to model-specific register `msr`.
///
/// # Safety
/// The CPU must have the MSR and accept the value, and the effect must not break what Rust relies on (address
/// translation, segment bases, control flow).
#[inline]
pub unsafe fn wrmsr(msr: u32, value: u64) {
    let (low, high) = halves(value);
    // SAFETY: the caller vouches for the MSR, the value and the effect.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") low, in("edx") high, options(nostack, preserves_flags));
    }
}

/// Reads extended control register `xcr`. CR4.OSXSAVE must be set, else it raises #UD.
#[inline]
#[must_use]
pub fn xgetbv(xcr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: XGETBV writes EDX:EAX only; a fault is reported as an unexpected exception.
    unsafe {
        asm!("xgetbv", in("ecx") xcr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes extended control register `xcr`. The hypervisor is built without floating point, so no state of its own
/// depends on it. An invalid value raises #GP, an unexpected exception.
#[inline]
pub fn xsetbv(xcr: u32, value: u64) {
    let (low, high) = halves(value);
    // SAFETY: no code of the hypervisor uses the state that XCR0 enables.
    unsafe {
        asm!("xsetbv", in("ecx") xcr, in("eax") low, in("edx") high, options(nomem, nostack, preserves_flags));
    }
}

/// Writes modified cache lines back to memory and empties the caches.
#[inline]
pub fn wbinvd() {
    // SAFETY: it changes no memory as programs see it.
    unsafe {
        asm!("wbinvd", options(nostack, preserves_flags));
    }
}

/// Tells the CPU that the code spins, which also lets a sibling thread run.
#[inline]
pub fn pause() {
    core::hint::spin_loop();
}

/// Overwrites the CPU's fill buffers where microcode makes VERW do so (Intel, "Microarchitectural Data Sampling"), with
/// `selector` a valid data segment.
#[inline]
pub fn verw(selector: u16) {
    // SAFETY: VERW changes ZF only (declared by the absence of preserves_flags), and reads its operand.
    unsafe {
        asm!("verw word ptr [{}]", in(reg) &raw const selector, options(readonly, nostack));
    }
}

/// Stops this CPU for good: only NMI, SMI and reset get through.
pub fn halt_for_ever() -> ! {
    loop {
        // SAFETY: with IF=0 the CPU only sleeps; nothing of Rust's changes.
        unsafe {
            asm!("cli", "hlt", options(nomem, nostack));
        }
    }
}

/// How a VMX instruction failed (Intel SDM vol. 3C, "Conventions").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmFail {
    /// There is no current VMCS (CF).
    Invalid,
    /// The current VMCS's VM-instruction error field says why (ZF).
    Valid,
}

/// The outcome that a VMX instruction left in CF (`invalid`) and ZF (`valid`).
#[inline]
fn vm_result(invalid: u8, valid: u8) -> Result<(), VmFail> {
    match (invalid, valid) {
        (0, 0) => Ok(()),
        (0, _) => Err(VmFail::Valid),
        _ => Err(VmFail::Invalid),
    }
}

macro_rules! vmx_with_address {
    ($(#[$doc:meta])* $name:ident, $mnemonic:literal) => {
        $(#[$doc])*
        #[inline]
        pub unsafe fn $name(region: u64) -> Result<(), VmFail> {
            let (invalid, valid): (u8, u8);
            // SAFETY: the caller vouches for the region; the operand is a local holding its address.
            unsafe {
                asm!(
                    concat!($mnemonic, " qword ptr [{region}]"),
                    "setc {invalid}",
                    "setz {valid}",
                    region = in(reg) &raw const region,
                    invalid = out(reg_byte) invalid,
                    valid = out(reg_byte) valid,
                    options(nostack),
                );
            }
            vm_result(invalid, valid)
        }
    };
}

vmx_with_address!(
    /// Enters VMX operation with the VMXON region at host physical address `region`.
    ///
    /// # Safety
    /// The frame must hold the revision identifier and stay the CPU's own until VMXOFF; CR4.VMXE and
    /// IA32_FEATURE_CONTROL must allow it.
    ///
    /// # Errors
    /// The flags that the instruction left.
    vmxon,
    "vmxon"
);
vmx_with_address!(
    /// Writes the VMCS at host physical address `region` back to memory and makes it inactive and clear.
    ///
    /// # Safety
    /// This CPU must be in VMX operation and the frame a VMCS that no other CPU has loaded.
    ///
    /// # Errors
    /// The flags that the instruction left.
    vmclear,
    "vmclear"
);
vmx_with_address!(
    /// Makes the VMCS at host physical address `region` current.
    ///
    /// # Safety
    /// This CPU must be in VMX operation and the frame a VMCS that no other CPU has loaded, left alone by software
    /// until it is cleared.
    ///
    /// # Errors
    /// The flags that the instruction left.
    vmptrld,
    "vmptrld"
);

/// Leaves VMX operation.
///
/// # Safety
/// This CPU must be in VMX operation, and every VMCS loaded on it cleared where it is used again.
///
/// # Errors
/// The flags that the instruction left.
pub unsafe fn vmxoff() -> Result<(), VmFail> {
    let (invalid, valid): (u8, u8);
    // SAFETY: the caller vouches for the mode.
    unsafe {
        asm!("vmxoff", "setc {}", "setz {}", out(reg_byte) invalid, out(reg_byte) valid, options(nostack));
    }
    vm_result(invalid, valid)
}

/// Reads a field of the current VMCS by its encoding.
///
/// # Safety
/// This CPU must be in VMX operation.
///
/// # Errors
/// The flags that the instruction left: no current VMCS, or a field that this CPU lacks.
#[inline]
pub unsafe fn vmread(field: u64) -> Result<u64, VmFail> {
    let value: u64;
    let failed: u8;
    // SAFETY: the caller vouches for the mode; a field is only read.
    unsafe {
        asm!(
            "vmread {value}, {field}",
            "setna {failed}",
            value = out(reg) value,
            field = in(reg) field,
            failed = out(reg_byte) failed,
            options(nostack),
        );
    }
    if failed == 0 {
        Ok(value)
    } else {
        Err(VmFail::Valid)
    }
}

/// Writes `value` to a field of the current VMCS by its encoding.
///
/// # Safety
/// This CPU must be in VMX operation, and the value must not make a later VM exit load a host state that Rust code
/// cannot run in.
///
/// # Errors
/// The flags that the instruction left: no current VMCS, or a field that this CPU lacks or does not let be written.
#[inline]
pub unsafe fn vmwrite(field: u64, value: u64) -> Result<(), VmFail> {
    let failed: u8;
    // SAFETY: the caller vouches for the mode and the value.
    unsafe {
        asm!(
            "vmwrite {field}, {value}",
            "setna {failed}",
            value = in(reg) value,
            field = in(reg) field,
            failed = out(reg_byte) failed,
            options(nostack),
        );
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(VmFail::Valid)
    }
}

macro_rules! invalidate {
    ($(#[$doc:meta])* $name:ident, $mnemonic:literal) => {
        $(#[$doc])*
        #[inline]
        pub unsafe fn $name(kind: u64, descriptor: [u64; 2]) -> Result<(), VmFail> {
            let failed: u8;
            // SAFETY: the caller vouches for the mode; dropping cached translations changes no memory.
            unsafe {
                asm!(
                    concat!($mnemonic, " {kind}, xmmword ptr [{descriptor}]"),
                    "setna {failed}",
                    kind = in(reg) kind,
                    descriptor = in(reg) &raw const descriptor,
                    failed = out(reg_byte) failed,
                    options(nostack),
                );
            }
            if failed == 0 { Ok(()) } else { Err(VmFail::Valid) }
        }
    };
}

invalidate!(
    /// Drops translations derived from EPT: type 1 for one EPTP (first word of the descriptor), 2 for all.
    ///
    /// # Safety
    /// This CPU must be in VMX operation.
    ///
    /// # Errors
    /// The CPU does not support the type.
    invept,
    "invept"
);
invalidate!(
    /// Drops translations of a VPID: type 0 for one address (second word), 1 for one VPID (first word), 2 for all, 3 for
    /// one VPID except global ones.
    ///
    /// # Safety
    /// This CPU must be in VMX operation.
    ///
    /// # Errors
    /// The CPU does not support the type.
    invvpid,
    "invvpid"
);

/// The low and high 32 bits, as instructions take them in EAX and EDX.
#[expect(
    clippy::cast_possible_truncation,
    reason = "each half is what is wanted"
)]
const fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
