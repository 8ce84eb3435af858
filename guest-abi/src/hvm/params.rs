//! public/hvm/params.h: indices of HVM parameters, and how events reach an HVM or PVH guest.

/// How events arrive: type in bits 63:56.
pub const HVM_PARAM_CALLBACK_IRQ: u32 = 0;
/// Frame of the xenstore ring.
pub const HVM_PARAM_STORE_PFN: u32 = 1;
/// Port of xenstore.
pub const HVM_PARAM_STORE_EVTCHN: u32 = 2;
/// PAE (obsolete).
pub const HVM_PARAM_PAE_ENABLED: u32 = 4;
/// Frame of the device model's requests.
pub const HVM_PARAM_IOREQ_PFN: u32 = 5;
/// Frame of its buffered requests.
pub const HVM_PARAM_BUFIOREQ_PFN: u32 = 6;
/// Viridian extensions.
pub const HVM_PARAM_VIRIDIAN: u32 = 9;
/// How missed ticks are made up.
pub const HVM_PARAM_TIMER_MODE: u32 = 10;
/// HPET there.
pub const HVM_PARAM_HPET_ENABLED: u32 = 11;
/// Address of an identity page table.
pub const HVM_PARAM_IDENT_PT: u32 = 12;
/// Domain of the device model (obsolete).
pub const HVM_PARAM_DM_DOMAIN: u32 = 13;
/// ACPI sleep state.
pub const HVM_PARAM_ACPI_S_STATE: u32 = 14;
/// Address of a TSS for virtual-8086 mode.
pub const HVM_PARAM_VM86_TSS: u32 = 15;
/// Align periodic timers.
pub const HVM_PARAM_VPT_ALIGN: u32 = 16;
/// Frame of the console ring.
pub const HVM_PARAM_CONSOLE_PFN: u32 = 17;
/// Port of the console.
pub const HVM_PARAM_CONSOLE_EVTCHN: u32 = 18;
/// Which ACPI ports.
pub const HVM_PARAM_ACPI_IOPORTS_LOCATION: u32 = 19;
/// Nested HVM.
pub const HVM_PARAM_NESTEDHVM: u32 = 24;
/// Frame of the paging ring.
pub const HVM_PARAM_PAGING_RING_PFN: u32 = 27;
/// Frame of the monitor ring.
pub const HVM_PARAM_MONITOR_RING_PFN: u32 = 28;
/// Frame of the sharing ring.
pub const HVM_PARAM_SHARING_RING_PFN: u32 = 29;
/// Shutdown reason of a triple fault.
pub const HVM_PARAM_TRIPLE_FAULT_REASON: u32 = 31;
/// First frame for ioreq servers.
pub const HVM_PARAM_IOREQ_SERVER_PFN: u32 = 32;
/// Their number.
pub const HVM_PARAM_NR_IOREQ_SERVER_PAGES: u32 = 33;
/// Address of the generation id.
pub const HVM_PARAM_VM_GENERATION_ID_ADDR: u32 = 34;
/// Alternative p2m mode.
pub const HVM_PARAM_ALTP2M: u32 = 35;
/// Width of the x87 instruction pointer.
pub const HVM_PARAM_X87_FIP_WIDTH: u32 = 36;
/// TSS for virtual-8086 mode, with size.
pub const HVM_PARAM_VM86_TSS_SIZED: u32 = 37;
/// Machine check capabilities.
pub const HVM_PARAM_MCA_CAP: u32 = 38;
/// First index that does not exist.
pub const HVM_NR_PARAMS: u32 = 39;

/// Where the type of [`HVM_PARAM_CALLBACK_IRQ`] starts.
pub const HVM_PARAM_CALLBACK_IRQ_TYPE_SHIFT: u32 = 56;
/// Type: a GSI, in the low bits.
pub const HVM_PARAM_CALLBACK_TYPE_GSI: u8 = 0;
/// Type: a PCI interrupt line.
pub const HVM_PARAM_CALLBACK_TYPE_PCI_INTX: u8 = 1;
/// Type: a vector, in the low 8 bits.
pub const HVM_PARAM_CALLBACK_TYPE_VECTOR: u8 = 2;
