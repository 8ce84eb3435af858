//! public/arch-x86/cpuid.h: the hypervisor's CPUID leaves.

/// First leaf: EAX highest leaf, EBX ECX EDX signature.
pub const XEN_CPUID_FIRST_LEAF: u32 = 0x4000_0000;
/// Leaf: EAX `major << 16 | minor`.
pub const XEN_CPUID_LEAF_VERSION: u32 = XEN_CPUID_FIRST_LEAF + 1;
/// Leaf: EAX hypercall pages, EBX MSR base, ECX features 1, EDX features 2.
pub const XEN_CPUID_LEAF_HYPERCALL: u32 = XEN_CPUID_FIRST_LEAF + 2;
/// Leaf: time; sub-leaves 0 to 2.
pub const XEN_CPUID_LEAF_TIME: u32 = XEN_CPUID_FIRST_LEAF + 3;
/// Leaf: HVM; EAX features, EBX vCPU, ECX domid.
pub const XEN_CPUID_LEAF_HVM: u32 = XEN_CPUID_FIRST_LEAF + 4;
/// Leaf: PV.
pub const XEN_CPUID_LEAF_PV: u32 = XEN_CPUID_FIRST_LEAF + 5;
/// Leaves past the first.
pub const XEN_CPUID_MAX_NUM_LEAVES: u32 = 5;
/// "XenV".
pub const XEN_CPUID_SIGNATURE_EBX: u32 = 0x566E_6558;
/// "MMXe".
pub const XEN_CPUID_SIGNATURE_ECX: u32 = 0x6558_4D4D;
/// "nVMM".
pub const XEN_CPUID_SIGNATURE_EDX: u32 = 0x4D4D_566E;
/// HVM: APIC registers are virtualised by the CPU.
pub const XEN_HVM_CPUID_APIC_ACCESS_VIRT: u32 = 1 << 0;
/// HVM: x2APIC accesses are virtualised by the CPU.
pub const XEN_HVM_CPUID_X2APIC_VIRT: u32 = 1 << 1;
/// HVM: memory of other domains has IOMMU mappings.
pub const XEN_HVM_CPUID_IOMMU_MAPPINGS: u32 = 1 << 2;
/// HVM: EBX holds the vCPU's id.
pub const XEN_HVM_CPUID_VCPU_ID_PRESENT: u32 = 1 << 3;
/// HVM: ECX holds the domid.
pub const XEN_HVM_CPUID_DOMID_PRESENT: u32 = 1 << 4;
/// HVM: extended destination ids.
pub const XEN_HVM_CPUID_EXT_DEST_ID: u32 = 1 << 5;
/// HVM: per-vCPU upcall vectors.
pub const XEN_HVM_CPUID_UPCALL_VECTOR: u32 = 1 << 6;
/// MSR of the hypercall page, as leaf 2 tells it.
pub const XEN_HYPERCALL_PAGE_MSR: u32 = 0x4000_0000;
