//! Encodings of VMCS fields and bits of the controls.
//!
//! Source: Intel SDM vol. 3D, "Field Encoding in VMCS"; vol. 3C, "VM-Execution Control Fields", "VM-Exit Control
//! Fields", "VM-Entry Control Fields".

use bitflags::bitflags;

macro_rules! fields {
    ($($name:ident = $encoding:expr, $doc:expr;)*) => {
        /// A VMCS field by its encoding.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub(super) enum Field { $(#[doc = $doc] $name = $encoding,)* }
    };
}

fields! {
    Vpid = 0x0000, "Virtual-processor identifier.";
    PostedInterruptVector = 0x0002, "Notification vector of posted interrupts.";
    GuestEsSelector = 0x0800, "Guest ES selector.";
    GuestCsSelector = 0x0802, "Guest CS selector.";
    GuestSsSelector = 0x0804, "Guest SS selector.";
    GuestDsSelector = 0x0806, "Guest DS selector.";
    GuestFsSelector = 0x0808, "Guest FS selector.";
    GuestGsSelector = 0x080A, "Guest GS selector.";
    GuestLdtrSelector = 0x080C, "Guest LDTR selector.";
    GuestTrSelector = 0x080E, "Guest TR selector.";
    GuestInterruptStatus = 0x0810, "RVI in bits 7:0, SVI in 15:8.";
    HostEsSelector = 0x0C00, "Host ES.";
    HostCsSelector = 0x0C02, "Host CS.";
    HostSsSelector = 0x0C04, "Host SS.";
    HostDsSelector = 0x0C06, "Host DS.";
    HostFsSelector = 0x0C08, "Host FS.";
    HostGsSelector = 0x0C0A, "Host GS.";
    HostTrSelector = 0x0C0C, "Host TR.";
    IoBitmapA = 0x2000, "I/O bitmap of ports 0 to 7FFFH.";
    IoBitmapB = 0x2002, "I/O bitmap of ports 8000H to FFFFH.";
    MsrBitmap = 0x2004, "MSR bitmaps.";
    TscOffset = 0x2010, "TSC offset.";
    VirtualApicPage = 0x2012, "Virtual-APIC page.";
    PostedInterruptDescriptor = 0x2016, "Posted-interrupt descriptor.";
    EptPointer = 0x201A, "EPT pointer.";
    EoiExitBitmap0 = 0x201C, "First of four EOI-exit bitmaps, two apart.";
    EoiExitBitmap1 = 0x201E, "Second EOI-exit bitmap.";
    EoiExitBitmap2 = 0x2020, "Third EOI-exit bitmap.";
    EoiExitBitmap3 = 0x2022, "Fourth EOI-exit bitmap.";
    XssExitingBitmap = 0x202C, "XSS bits whose XSAVES exits.";
    EnclsExitingBitmap = 0x202E, "ENCLS leaves that exit.";
    TscMultiplier = 0x2032, "TSC multiplier, 48 fractional bits.";
    EnclvExitingBitmap = 0x2036, "ENCLV leaves that exit.";
    GuestPhysicalAddress = 0x2400, "Guest-physical address of an EPT violation.";
    LinkPointer = 0x2800, "VMCS link pointer.";
    GuestDebugCtl = 0x2802, "Guest IA32_DEBUGCTL.";
    GuestPat = 0x2804, "Guest IA32_PAT.";
    GuestEfer = 0x2806, "Guest IA32_EFER.";
    GuestPdpte0 = 0x280A, "Guest PDPTE 0, for PAE paging.";
    GuestPdpte1 = 0x280C, "Guest PDPTE 1, for PAE paging.";
    GuestPdpte2 = 0x280E, "Guest PDPTE 2, for PAE paging.";
    GuestPdpte3 = 0x2810, "Guest PDPTE 3, for PAE paging.";
    HostPat = 0x2C00, "Host IA32_PAT.";
    HostEfer = 0x2C02, "Host IA32_EFER.";
    PinControls = 0x4000, "Pin-based controls.";
    PrimaryControls = 0x4002, "Primary processor-based controls.";
    ExceptionBitmap = 0x4004, "Exceptions that exit.";
    PageFaultMask = 0x4006, "Page-fault error-code mask.";
    PageFaultMatch = 0x4008, "Page-fault error-code match.";
    Cr3TargetCount = 0x400A, "CR3-target count.";
    ExitControls = 0x400C, "VM-exit controls.";
    ExitMsrStoreCount = 0x400E, "VM-exit MSR-store count.";
    ExitMsrLoadCount = 0x4010, "VM-exit MSR-load count.";
    EntryControls = 0x4012, "VM-entry controls.";
    EntryMsrLoadCount = 0x4014, "VM-entry MSR-load count.";
    EntryEvent = 0x4016, "VM-entry interruption information.";
    EntryErrorCode = 0x4018, "VM-entry exception error code.";
    EntryInstructionLength = 0x401A, "VM-entry instruction length.";
    TprThreshold = 0x401C, "TPR threshold.";
    SecondaryControls = 0x401E, "Secondary processor-based controls.";
    PleGap = 0x4020, "Ticks between two PAUSEs of one loop.";
    PleWindow = 0x4022, "Ticks that a loop of PAUSEs may take.";
    NotifyWindow = 0x4024, "Ticks without an instruction boundary.";
    InstructionError = 0x4400, "VM-instruction error.";
    ExitReason = 0x4402, "Exit reason.";
    ExitEvent = 0x4404, "VM-exit interruption information.";
    ExitErrorCode = 0x4406, "VM-exit interruption error code.";
    VectoringEvent = 0x4408, "IDT-vectoring information.";
    VectoringErrorCode = 0x440A, "IDT-vectoring error code.";
    InstructionLength = 0x440C, "VM-exit instruction length.";
    GuestEsLimit = 0x4800, "Guest ES limit.";
    GuestCsLimit = 0x4802, "Guest CS limit.";
    GuestSsLimit = 0x4804, "Guest SS limit.";
    GuestDsLimit = 0x4806, "Guest DS limit.";
    GuestFsLimit = 0x4808, "Guest FS limit.";
    GuestGsLimit = 0x480A, "Guest GS limit.";
    GuestLdtrLimit = 0x480C, "Guest LDTR limit.";
    GuestTrLimit = 0x480E, "Guest TR limit.";
    GuestGdtrLimit = 0x4810, "Guest GDTR limit.";
    GuestIdtrLimit = 0x4812, "Guest IDTR limit.";
    GuestEsAccess = 0x4814, "Guest ES access rights.";
    GuestCsAccess = 0x4816, "Guest CS access rights.";
    GuestSsAccess = 0x4818, "Guest SS access rights.";
    GuestDsAccess = 0x481A, "Guest DS access rights.";
    GuestFsAccess = 0x481C, "Guest FS access rights.";
    GuestGsAccess = 0x481E, "Guest GS access rights.";
    GuestLdtrAccess = 0x4820, "Guest LDTR access rights.";
    GuestTrAccess = 0x4822, "Guest TR access rights.";
    Interruptibility = 0x4824, "Interruptibility state.";
    Activity = 0x4826, "Activity state.";
    GuestSysenterCs = 0x482A, "Guest IA32_SYSENTER_CS.";
    HostSysenterCs = 0x4C00, "Host IA32_SYSENTER_CS.";
    Cr0Mask = 0x6000, "CR0 bits that the hypervisor owns.";
    Cr4Mask = 0x6002, "CR4 bits that the hypervisor owns.";
    Cr0Shadow = 0x6004, "What the guest reads of them in CR0.";
    Cr4Shadow = 0x6006, "What the guest reads of them in CR4.";
    Qualification = 0x6400, "Exit qualification.";
    GuestLinearAddress = 0x640A, "Guest-linear address.";
    GuestCr0 = 0x6800, "Guest CR0.";
    GuestCr3 = 0x6802, "Guest CR3.";
    GuestCr4 = 0x6804, "Guest CR4.";
    GuestEsBase = 0x6806, "Guest ES base.";
    GuestCsBase = 0x6808, "Guest CS base.";
    GuestSsBase = 0x680A, "Guest SS base.";
    GuestDsBase = 0x680C, "Guest DS base.";
    GuestFsBase = 0x680E, "Guest FS base.";
    GuestGsBase = 0x6810, "Guest GS base.";
    GuestLdtrBase = 0x6812, "Guest LDTR base.";
    GuestTrBase = 0x6814, "Guest TR base.";
    GuestGdtrBase = 0x6816, "Guest GDTR base.";
    GuestIdtrBase = 0x6818, "Guest IDTR base.";
    GuestDr7 = 0x681A, "Guest DR7.";
    GuestRsp = 0x681C, "Guest RSP.";
    GuestRip = 0x681E, "Guest RIP.";
    GuestRflags = 0x6820, "Guest RFLAGS.";
    PendingDebug = 0x6822, "Pending debug exceptions.";
    GuestSysenterEsp = 0x6824, "Guest IA32_SYSENTER_ESP.";
    GuestSysenterEip = 0x6826, "Guest IA32_SYSENTER_EIP.";
    HostCr0 = 0x6C00, "Host CR0.";
    HostCr3 = 0x6C02, "Host CR3.";
    HostCr4 = 0x6C04, "Host CR4.";
    HostFsBase = 0x6C06, "Host FS base.";
    HostGsBase = 0x6C08, "Host GS base.";
    HostTrBase = 0x6C0A, "Host TR base.";
    HostGdtrBase = 0x6C0C, "Host GDTR base.";
    HostIdtrBase = 0x6C0E, "Host IDTR base.";
    HostSysenterEsp = 0x6C10, "Host IA32_SYSENTER_ESP.";
    HostSysenterEip = 0x6C12, "Host IA32_SYSENTER_EIP.";
    HostRip = 0x6C16, "Host RIP.";
}

bitflags! {
    /// Pin-based VM-execution controls.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Pin: u32 {
        /// External-interrupt exiting.
        const EXTERNAL_INTERRUPT = 1 << 0;
        /// NMI exiting.
        const NMI = 1 << 3;
        /// Virtual NMIs.
        const VIRTUAL_NMI = 1 << 5;
        /// Process posted interrupts.
        const POSTED_INTERRUPTS = 1 << 7;
    }

    /// Primary processor-based VM-execution controls.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Primary: u32 {
        /// Interrupt-window exiting.
        const INTERRUPT_WINDOW = 1 << 2;
        /// Use TSC offsetting.
        const TSC_OFFSET = 1 << 3;
        /// HLT exiting.
        const HLT = 1 << 7;
        /// MWAIT exiting.
        const MWAIT = 1 << 10;
        /// RDPMC exiting.
        const RDPMC = 1 << 11;
        /// RDTSC exiting.
        const RDTSC = 1 << 12;
        /// CR3-load exiting.
        const CR3_LOAD = 1 << 15;
        /// CR3-store exiting.
        const CR3_STORE = 1 << 16;
        /// CR8-load exiting.
        const CR8_LOAD = 1 << 19;
        /// CR8-store exiting.
        const CR8_STORE = 1 << 20;
        /// Use TPR shadow.
        const TPR_SHADOW = 1 << 21;
        /// NMI-window exiting.
        const NMI_WINDOW = 1 << 22;
        /// Use I/O bitmaps.
        const IO_BITMAPS = 1 << 25;
        /// Use MSR bitmaps.
        const MSR_BITMAPS = 1 << 28;
        /// MONITOR exiting.
        const MONITOR = 1 << 29;
        /// Activate secondary controls.
        const SECONDARY = 1 << 31;
    }

    /// Secondary processor-based VM-execution controls.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Secondary: u32 {
        /// Enable EPT.
        const EPT = 1 << 1;
        /// Enable RDTSCP (and RDPID).
        const RDTSCP = 1 << 3;
        /// Virtualize x2APIC mode.
        const VIRTUAL_X2APIC = 1 << 4;
        /// Enable VPID.
        const VPID = 1 << 5;
        /// WBINVD exiting.
        const WBINVD = 1 << 6;
        /// Unrestricted guest.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// APIC-register virtualization.
        const APIC_REGISTERS = 1 << 8;
        /// Virtual-interrupt delivery.
        const INTERRUPT_DELIVERY = 1 << 9;
        /// PAUSE-loop exiting.
        const PAUSE_LOOP = 1 << 10;
        /// Enable INVPCID.
        const INVPCID = 1 << 12;
        /// Enable ENCLS exiting.
        const ENCLS = 1 << 15;
        /// Enable XSAVES/XRSTORS.
        const XSAVES = 1 << 20;
        /// Use TSC scaling.
        const TSC_SCALING = 1 << 25;
        /// Enable ENCLV exiting.
        const ENCLV = 1 << 28;
        /// VMM bus-lock detection.
        const BUS_LOCK = 1 << 30;
        /// Instruction timeout.
        const INSTRUCTION_TIMEOUT = 1 << 31;
    }

    /// VM-exit controls.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Exit: u32 {
        /// Save debug controls.
        const SAVE_DEBUG = 1 << 2;
        /// Host address-space size: 64-bit.
        const HOST_64BIT = 1 << 9;
        /// Acknowledge interrupt on exit.
        const ACKNOWLEDGE_INTERRUPT = 1 << 15;
        /// Save IA32_PAT.
        const SAVE_PAT = 1 << 18;
        /// Load IA32_PAT.
        const LOAD_PAT = 1 << 19;
        /// Save IA32_EFER.
        const SAVE_EFER = 1 << 20;
        /// Load IA32_EFER.
        const LOAD_EFER = 1 << 21;
    }

    /// VM-entry controls.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Entry: u32 {
        /// Load debug controls.
        const LOAD_DEBUG = 1 << 2;
        /// IA-32e mode guest.
        const IA32E_MODE = 1 << 9;
        /// Load IA32_PAT.
        const LOAD_PAT = 1 << 14;
        /// Load IA32_EFER.
        const LOAD_EFER = 1 << 15;
    }
}
