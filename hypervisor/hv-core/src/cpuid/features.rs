//! The feature bits a guest may see: the allow-lists, and what each feature drags with it.
//!
//! A bit that is on no list is hidden, on hosts of today and of tomorrow. Names as in Intel SDM vol. 2A, "CPUID".

use super::CpuidRegs;

/// The word with the bits of `list` set.
const fn bits(list: &[u32]) -> u32 {
    let mut word = 0;
    let mut i = 0;
    while i < list.len() {
        word |= 1 << list[i];
        i += 1;
    }
    word
}

/// Leaf 1, ECX.
pub(super) mod leaf1_ecx {
    use super::bits;

    pub(in super::super) const FMA: u32 = 1 << 12;
    pub(in super::super) const PCID: u32 = 1 << 17;
    pub(in super::super) const X2APIC: u32 = 1 << 21;
    pub(in super::super) const TSC_DEADLINE: u32 = 1 << 24;
    pub(in super::super) const XSAVE: u32 = 1 << 26;
    pub(in super::super) const OSXSAVE: u32 = 1 << 27;
    pub(in super::super) const AVX: u32 = 1 << 28;
    pub(in super::super) const F16C: u32 = 1 << 29;
    pub(in super::super) const HYPERVISOR: u32 = 1 << 31;

    /// What the host may pass on.
    pub(in super::super) const ALLOWED: u32 = FMA
        | PCID
        | XSAVE
        | AVX
        | F16C
        | bits(&[
            0,  // SSE3
            1,  // PCLMULQDQ
            9,  // SSSE3
            13, // CMPXCHG16B
            19, // SSE4.1
            20, // SSE4.2
            22, // MOVBE
            23, // POPCNT
            25, // AES
            30, // RDRAND
        ]);
    /// What we emulate, host or not.
    pub(in super::super) const EMULATED: u32 = X2APIC | TSC_DEADLINE | HYPERVISOR;
}

/// Leaf 1, EDX.
pub(super) mod leaf1_edx {
    use super::bits;

    pub(in super::super) const VME: u32 = 1 << 1;
    pub(in super::super) const APIC: u32 = 1 << 9;
    pub(in super::super) const MTRR: u32 = 1 << 12;
    pub(in super::super) const PAT: u32 = 1 << 16;
    pub(in super::super) const HTT: u32 = 1 << 28;

    /// What the host may pass on. MCE and MCA stay visible, as every x86-64 kernel expects, with no bank behind them.
    pub(in super::super) const ALLOWED: u32 = VME
        | bits(&[
            0,  // FPU
            2,  // DE
            3,  // PSE
            4,  // TSC
            5,  // MSR
            6,  // PAE
            7,  // MCE
            8,  // CX8
            11, // SEP
            13, // PGE
            14, // MCA
            15, // CMOV
            17, // PSE-36
            19, // CLFSH
            23, // MMX
            24, // FXSR
            25, // SSE
            26, // SSE2
            27, // SS
        ]);
    pub(in super::super) const EMULATED: u32 = APIC | MTRR | PAT;
}

/// Leaf 7, subleaf 0, EBX.
pub(super) mod leaf7_ebx {
    use super::bits;

    pub(in super::super) const FSGSBASE: u32 = 1 << 0;
    pub(in super::super) const AVX2: u32 = 1 << 5;
    pub(in super::super) const SMEP: u32 = 1 << 7;
    pub(in super::super) const ERMS: u32 = 1 << 9;
    pub(in super::super) const INVPCID: u32 = 1 << 10;
    pub(in super::super) const SMAP: u32 = 1 << 20;
    pub(in super::super) const AVX512F: u32 = 1 << 16;
    /// AVX-512: F DQ IFMA PF ER CD BW VL.
    pub(in super::super) const AVX512: u32 = bits(&[16, 17, 21, 26, 27, 28, 30, 31]);

    /// Not on it: TSC_ADJUST (nobody needs it where we keep the TSCs in step), SGX, TSX (TAA), MPX, RDT, PT.
    pub(in super::super) const ALLOWED: u32 = FSGSBASE
        | ERMS
        | AVX2
        | SMEP
        | INVPCID
        | SMAP
        | AVX512
        | bits(&[
            3,  // BMI1
            6,  // FDP_EXCPTN_ONLY
            8,  // BMI2
            13, // no FPU CS and DS
            18, // RDSEED
            19, // ADX
            23, // CLFLUSHOPT
            24, // CLWB
            29, // SHA
        ]);
}

/// Leaf 7, subleaf 0, ECX.
pub(super) mod leaf7_ecx {
    use super::bits;

    pub(in super::super) const UMIP: u32 = 1 << 2;
    pub(in super::super) const PKU: u32 = 1 << 3;
    pub(in super::super) const OSPKE: u32 = 1 << 4;
    pub(in super::super) const RDPID: u32 = 1 << 22;
    pub(in super::super) const AVX: u32 = bits(&[9, 10]);
    /// VBMI VBMI2 VNNI BITALG VPOPCNTDQ.
    pub(in super::super) const AVX512: u32 = bits(&[1, 6, 11, 12, 14]);

    /// Not on it: WAITPKG (its MSR), CET, LA57 (five-level tables), ENQCMD, SGX_LC, PKS, key locker, bus-lock
    /// detection.
    pub(in super::super) const ALLOWED: u32 = UMIP
        | PKU
        | RDPID
        | AVX
        | AVX512
        | bits(&[
            0,  // PREFETCHWT1
            8,  // GFNI
            25, // CLDEMOTE
            27, // MOVDIRI
            28, // MOVDIR64B
        ]);
}

/// Leaf 7, subleaf 0, EDX.
pub(super) mod leaf7_edx {
    use super::bits;

    pub(in super::super) const FSRM: u32 = 1 << 4;
    pub(in super::super) const IBRS: u32 = 1 << 26;
    pub(in super::super) const STIBP: u32 = 1 << 27;
    pub(in super::super) const L1D_FLUSH: u32 = 1 << 28;
    pub(in super::super) const ARCH_CAPABILITIES: u32 = 1 << 29;
    pub(in super::super) const SSBD: u32 = 1 << 31;
    /// What IA32_SPEC_CTRL, IA32_PRED_CMD and IA32_FLUSH_CMD do.
    pub(in super::super) const SPECULATION: u32 = IBRS | STIBP | L1D_FLUSH | SSBD;
    /// 4VNNIW 4FMAPS VP2INTERSECT FP16.
    pub(in super::super) const AVX512: u32 = bits(&[2, 3, 8, 23]);

    /// Not on it: AMX, user interrupts, HYBRID, PCONFIG, LBR, CET, SRBDS_CTRL, CORE_CAPABILITIES.
    pub(in super::super) const ALLOWED: u32 = FSRM
        | SPECULATION
        | ARCH_CAPABILITIES
        | AVX512
        | bits(&[
            10, // MD_CLEAR
            14, // SERIALIZE
        ]);
}

/// Leaf 7, subleaf 1, EAX: vector extensions of AVX size.
pub(super) const LEAF7_1_EAX_AVX: u32 = bits(&[
    0,  // SHA512
    1,  // SM3
    2,  // SM4
    4,  // AVX_VNNI
    23, // AVX_IFMA
]);
/// Leaf 7, subleaf 1, EAX: AVX512_BF16.
pub(super) const LEAF7_1_EAX_AVX512: u32 = bits(&[5]);
/// Leaf 7, subleaf 1, EAX: RAO_INT, CMPCCXADD, FZRM, FSRS, FSRCS.
pub(super) const LEAF7_1_EAX_PLAIN: u32 = bits(&[3, 7, 10, 11, 12]);
/// Leaf 7, subleaf 1, EAX: FZRM, FSRS, FSRCS, which mean nothing without fast strings.
pub(super) const LEAF7_1_EAX_FAST_STRINGS: u32 = bits(&[10, 11, 12]);
/// Leaf 7, subleaf 1, EDX: AVX_VNNI_INT8, AVX_NE_CONVERT, AVX_VNNI_INT16.
pub(super) const LEAF7_1_EDX_AVX: u32 = bits(&[4, 5, 10]);
/// Leaf 7, subleaf 1, EDX: PREFETCHI.
pub(super) const LEAF7_1_EDX_PLAIN: u32 = bits(&[14]);

/// Leaf 7, subleaf 2, EDX: further bits of IA32_SPEC_CTRL (PSFD IPRED_CTRL RRSBA_CTRL DDPD_U BHI_CTRL).
pub(super) const LEAF7_2_EDX_SPECULATION: u32 = bits(&[0, 1, 2, 3, 4]);
/// Leaf 7, subleaf 2, EDX: MCDT_NO, a statement about the CPU.
pub(super) const LEAF7_2_EDX_PLAIN: u32 = bits(&[5]);

/// Leaf 0xD, subleaf 1, EAX: XSAVEOPT XSAVEC XGETBV1.
pub(super) const XSAVE_EXTENSIONS: u32 = bits(&[0, 1, 2]);
/// Leaf 0xD, subleaf 1, EAX.
pub(super) const XSAVES: u32 = 1 << 3;

/// Leaf 0x80000001, ECX.
pub(super) mod extended1_ecx {
    use super::bits;

    /// Source: AMD APM vol. 3, "CPUID Fn8000_0001_ECX Feature Identifiers".
    pub(in super::super) const CMP_LEGACY: u32 = 1 << 1;
    pub(in super::super) const XOP: u32 = 1 << 11;
    pub(in super::super) const FMA4: u32 = 1 << 16;
    pub(in super::super) const TOPOEXT: u32 = 1 << 22;
    /// What the host may pass on, whoever made it: LAHF, LZCNT, PREFETCHW.
    pub(in super::super) const ALLOWED: u32 = bits(&[0, 5, 8]);
    /// What only AMD's CPUs have of it: SSE4A, MISALIGNSSE and TBM too. Not on it: SVM, SKINIT, EXTAPIC, CR8_LEGACY,
    /// OSVW, IBS, LWP, WDT, NODEID_MSR, the performance counters, DBEXT (its MSRs are not switched), MONITORX.
    pub(in super::super) const ALLOWED_AMD: u32 = XOP | FMA4 | TOPOEXT | bits(&[6, 7, 21]);
}
/// Leaf 0x80000001, EDX.
pub(super) mod extended1_edx {
    pub(in super::super) const NX: u32 = 1 << 20;
    pub(in super::super) const RDTSCP: u32 = 1 << 27;
    pub(in super::super) const FFXSR: u32 = 1 << 25;
    /// SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
    pub(in super::super) const ALLOWED: u32 = 1 << 11 | NX | 1 << 26 | RDTSCP | 1 << 29;
    /// What only AMD's CPUs have of it: MMXEXT, FFXSR, 3DNow! and its extension.
    pub(in super::super) const ALLOWED_AMD: u32 = 1 << 22 | FFXSR | 1 << 30 | 1 << 31;
    /// What AMD's CPUs repeat here of leaf 1: all that it had when the two were made.
    pub(in super::super) const OF_LEAF1: u32 = 0x0183_f3ff;
}

/// Leaf 0x80000008, EBX: AMD's.
///
/// Source: AMD APM vol. 3, "CPUID Fn8000_0008_EBX"; "Speculative Store Bypass Disable"; "Indirect Branch Control
/// Extension".
pub(super) mod extended8_ebx {
    use super::bits;

    pub(in super::super) const IBPB: u32 = 1 << 12;
    pub(in super::super) const IBRS: u32 = 1 << 14;
    pub(in super::super) const STIBP: u32 = 1 << 15;
    pub(in super::super) const NO_LMSL: u32 = 1 << 20;
    pub(in super::super) const SSBD: u32 = 1 << 24;
    pub(in super::super) const PSFD: u32 = 1 << 28;
    pub(in super::super) const IBPB_RET: u32 = 1 << 30;
    /// Bits of IA32_SPEC_CTRL, and how they are best used: IBRS_ALWAYS, STIBP_ALWAYS, IBRS_FAST, IBRS_SAME_MODE.
    pub(in super::super) const SPEC_CTRL: u32 =
        IBRS | STIBP | SSBD | PSFD | bits(&[16, 17, 18, 19]);
    /// CLZERO and RSTR_FP_ERR_PTRS; SSB_NO and BTC_NO, statements about the CPU. Not on it: IRPERF, INVLPGB, RDPRU,
    /// MBA, MCOMMIT, PPIN, VIRT_SSBD (its MSR is not switched), CPPC.
    pub(in super::super) const ALLOWED: u32 = SPEC_CTRL | IBPB | IBPB_RET | bits(&[0, 2, 26, 29]);
}

/// Leaf 0x80000021, EAX: AMD's.
pub(super) mod extended21_eax {
    use super::bits;

    pub(in super::super) const SBPB: u32 = 1 << 27;
    pub(in super::super) const IBPB_BRTYPE: u32 = 1 << 28;
    /// LFENCE_DISPATCH, VERW_CLEAR, null selector clears base; SRSO_NO and SRSO_US_NO. Not on it: AUTO_IBRS, which
    /// would be a bit of EFER to switch, and SRSO_MSR_FIX, whose MSR is the hypervisor's.
    pub(in super::super) const ALLOWED: u32 = SBPB | IBPB_BRTYPE | bits(&[2, 5, 6, 29, 30]);
}

/// Leaf 0x80000021, ECX: AMD's TSA_SQ_NO and TSA_L1_NO, statements about the CPU.
pub(super) const EXTENDED21_ECX: u32 = bits(&[1, 2]);

/// The feature words that depend on one another.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Features {
    pub(super) leaf1: CpuidRegs,
    pub(super) leaf7: [CpuidRegs; 3],
    pub(super) extended1: CpuidRegs,
    /// AMD's features in leaves 0x80000008 (EBX) and 0x80000021 (EAX).
    pub(super) extended8_ebx: u32,
    pub(super) extended21_eax: u32,
}

impl Features {
    /// Takes away whatever needs 256-bit registers.
    pub(super) fn drop_avx(&mut self) {
        self.drop_avx512();
        self.leaf1.ecx &= !(leaf1_ecx::AVX | leaf1_ecx::FMA | leaf1_ecx::F16C);
        self.leaf7[0].ebx &= !leaf7_ebx::AVX2;
        self.leaf7[0].ecx &= !leaf7_ecx::AVX;
        self.leaf7[1].eax &= !LEAF7_1_EAX_AVX;
        self.leaf7[1].edx &= !LEAF7_1_EDX_AVX;
        self.extended1.ecx &= !(extended1_ecx::XOP | extended1_ecx::FMA4);
    }
    /// Takes away whatever needs 512-bit registers.
    pub(super) fn drop_avx512(&mut self) {
        self.leaf7[0].ebx &= !leaf7_ebx::AVX512;
        self.leaf7[0].ecx &= !leaf7_ecx::AVX512;
        self.leaf7[0].edx &= !leaf7_edx::AVX512;
        self.leaf7[1].eax &= !LEAF7_1_EAX_AVX512;
    }
    /// Takes away what IA32_SPEC_CTRL and the two command MSRs do.
    pub(super) fn drop_speculation_control(&mut self) {
        self.leaf7[0].edx &= !leaf7_edx::SPECULATION;
        self.leaf7[2].edx &= !LEAF7_2_EDX_SPECULATION;
        self.extended8_ebx &= !extended8_ebx::SPEC_CTRL;
    }
    /// Takes away AMD's IBPB, and what there is besides only with it.
    pub(super) fn drop_ibpb(&mut self) {
        self.extended8_ebx &= !(extended8_ebx::IBPB | extended8_ebx::IBPB_RET);
        self.extended21_eax &= !(extended21_eax::SBPB | extended21_eax::IBPB_BRTYPE);
    }
    /// Takes away AMD's leaves 0x8000001D and 0x8000001E.
    pub(super) fn drop_topology_extensions(&mut self) {
        self.extended1.ecx &= !extended1_ecx::TOPOEXT;
    }
    /// True where the guest has AMD's leaves 0x8000001D and 0x8000001E.
    pub(super) fn has_topology_extensions(&self) -> bool {
        self.extended1.ecx & extended1_ecx::TOPOEXT != 0
    }
}
