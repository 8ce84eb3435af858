//! Numbers of model-specific registers: Intel SDM vol. 4, "Model-Specific Registers (MSRs)", and its names.

/// Declares the numbers, each documented by its use.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: u32 = $value;)*
    };
}

numbers! {
    IA32_TIME_STAMP_COUNTER = 0x10;
    /// Which processor slot the microcode is for.
    IA32_PLATFORM_ID = 0x17;
    /// Where the local APIC is, and in which mode.
    IA32_APIC_BASE = 0x1b;
    /// Which features firmware locked.
    IA32_FEATURE_CONTROL = 0x3a;
    IA32_SPEC_CTRL = 0x48;
    IA32_PRED_CMD = 0x49;
    /// Revision of the microcode, in the upper half.
    IA32_BIOS_SIGN_ID = 0x8b;
    /// Ratios, and whether CPUID can be made to fault.
    MSR_PLATFORM_INFO = 0xce;
    /// How many MTRRs there are.
    IA32_MTRRCAP = 0xfe;
    /// Which vulnerabilities the CPU does not have.
    IA32_ARCH_CAPABILITIES = 0x10a;
    /// Cache command: flush L1D.
    IA32_FLUSH_CMD = 0x10b;
    /// CPUID faulting and ring-3 MWAIT.
    MSR_MISC_FEATURES_ENABLES = 0x140;
    IA32_SYSENTER_CS = 0x174;
    IA32_SYSENTER_ESP = 0x175;
    IA32_SYSENTER_EIP = 0x176;
    /// How many machine-check banks there are.
    IA32_MCG_CAP = 0x179;
    /// State of a machine check.
    IA32_MCG_STATUS = 0x17a;
    IA32_PERF_STATUS = 0x198;
    IA32_PERF_CTL = 0x199;
    IA32_THERM_STATUS = 0x19c;
    /// Fast strings, and what is unavailable.
    IA32_MISC_ENABLE = 0x1a0;
    /// Branch single-stepping, LBR, bus-lock traps.
    IA32_DEBUGCTL = 0x1d9;
    /// The first of the variable MTRRs: base and mask by turns.
    IA32_MTRR_PHYSBASE0 = 0x200;
    /// The fixed MTRR of the first 512 KiB.
    IA32_MTRR_FIX64K_00000 = 0x250;
    /// Fixed, 16 KiB each, from 0x80000.
    IA32_MTRR_FIX16K_80000 = 0x258;
    /// Fixed, 16 KiB each, from 0xA0000.
    IA32_MTRR_FIX16K_A0000 = 0x259;
    /// Fixed, 4 KiB each, from 0xC0000: the first of eight.
    IA32_MTRR_FIX4K_C0000 = 0x268;
    /// Memory types of the eight page-table encodings.
    IA32_PAT = 0x277;
    IA32_MTRR_DEF_TYPE = 0x2ff;
    /// The APIC timer in TSC-deadline mode.
    IA32_TSC_DEADLINE = 0x6e0;
    /// The first of the x2APIC registers.
    X2APIC_FIRST = 0x800;
    /// The last of the x2APIC registers that are defined: SELF_IPI.
    X2APIC_LAST = 0x83f;
    IA32_XSS = 0xda0;
    /// Extended features: long mode, SYSCALL, NX.
    IA32_EFER = 0xc000_0080;
    IA32_STAR = 0xc000_0081;
    /// RIP of SYSCALL in 64-bit mode.
    IA32_LSTAR = 0xc000_0082;
    /// RIP of SYSCALL in compatibility mode (AMD's; Intel stores it).
    IA32_CSTAR = 0xc000_0083;
    /// RFLAGS mask of SYSCALL.
    IA32_FMASK = 0xc000_0084;
    IA32_FS_BASE = 0xc000_0100;
    IA32_GS_BASE = 0xc000_0101;
    /// What SWAPGS swaps in.
    IA32_KERNEL_GS_BASE = 0xc000_0102;
    /// What RDTSCP and RDPID return beside the time.
    IA32_TSC_AUX = 0xc000_0103;
}
