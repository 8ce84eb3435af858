//! public/xen.h (with arch-x86/xen.h): hypercall numbers, domids, virtual interrupts, and the page a domain shares with
//! the hypervisor.
//!
//! Hypercall ABI: rax = number, arguments rdi, rsi, rdx, r10, r8; result in rax; no other register changes; CPL 0 only.

use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Hypercall: machine-wide settings of dom0's.
pub const __HYPERVISOR_platform_op: u64 = 7;
/// Hypercall: memory.
pub const __HYPERVISOR_memory_op: u64 = 12;
/// Hypercall: several in one.
pub const __HYPERVISOR_multicall: u64 = 13;
/// Hypercall: the singleshot timer of the calling vCPU, old form.
pub const __HYPERVISOR_set_timer_op: u64 = 15;
/// Hypercall: version and features.
pub const __HYPERVISOR_xen_version: u64 = 17;
/// Hypercall: the hypervisor's console.
pub const __HYPERVISOR_console_io: u64 = 18;
/// Hypercall: grant tables.
pub const __HYPERVISOR_grant_table_op: u64 = 20;
/// Hypercall: optional behaviour on and off.
pub const __HYPERVISOR_vm_assist: u64 = 21;
/// Hypercall: PV only; its stub in the hypercall page faults.
pub const __HYPERVISOR_iret: u64 = 23;
/// Hypercall: vCPUs.
pub const __HYPERVISOR_vcpu_op: u64 = 24;
/// Hypercall: PV page tables.
pub const __HYPERVISOR_mmuext_op: u64 = 26;
/// Hypercall: security module.
pub const __HYPERVISOR_xsm_op: u64 = 27;
/// Hypercall: scheduling.
pub const __HYPERVISOR_sched_op: u64 = 29;
/// Hypercall: event channels.
pub const __HYPERVISOR_event_channel_op: u64 = 32;
/// Hypercall: physical devices.
pub const __HYPERVISOR_physdev_op: u64 = 33;
/// Hypercall: HVM and PVH.
pub const __HYPERVISOR_hvm_op: u64 = 34;
/// Hypercall: the host, from the toolstack.
pub const __HYPERVISOR_sysctl: u64 = 35;
/// Hypercall: a domain, from the toolstack.
pub const __HYPERVISOR_domctl: u64 = 36;
/// Hypercall: kexec.
pub const __HYPERVISOR_kexec_op: u64 = 37;
/// Hypercall: messages between domains.
pub const __HYPERVISOR_argo_op: u64 = 39;
/// Hypercall: performance counters.
pub const __HYPERVISOR_xenpmu_op: u64 = 40;
/// Hypercall: device models.
pub const __HYPERVISOR_dm_op: u64 = 41;
/// Hypercall: the hypervisor's file system.
pub const __HYPERVISOR_hypfs_op: u64 = 42;
/// Hypercall: machine checks (arch_0).
pub const __HYPERVISOR_mca: u64 = 48;
/// First number past all that exist or are reserved.
pub const NR_HYPERCALLS: u64 = 64;

/// Sub-operation of console_io: write `rsi` bytes from `rdx`.
pub const CONSOLEIO_write: u32 = 0;
/// Sub-operation of console_io: read up to `rsi` bytes to `rdx`; returns how many.
pub const CONSOLEIO_read: u32 = 1;

/// First domid that is not a domain's.
pub const DOMID_FIRST_RESERVED: u16 = 0x7FF0;
/// The caller.
pub const DOMID_SELF: u16 = 0x7FF0;
/// Owner of I/O memory.
pub const DOMID_IO: u16 = 0x7FF1;
/// Owner of the hypervisor's pages.
pub const DOMID_XEN: u16 = 0x7FF2;
/// Owner of shared copy-on-write pages.
pub const DOMID_COW: u16 = 0x7FF3;
/// No domain.
pub const DOMID_INVALID: u16 = 0x7FF4;
/// The idle domain.
pub const DOMID_IDLE: u16 = 0x7FFF;

/// Per-vCPU virtual interrupt: a timer expired.
pub const VIRQ_TIMER: u32 = 0;
/// Per-vCPU: dump debug information.
pub const VIRQ_DEBUG: u32 = 1;
/// dom0: console input.
pub const VIRQ_CONSOLE: u32 = 2;
/// dom0: some domain changed state.
pub const VIRQ_DOM_EXC: u32 = 3;
/// dom0: trace records.
pub const VIRQ_TBUF: u32 = 4;
/// dom0: a domain paused for its debugger.
pub const VIRQ_DEBUGGER: u32 = 6;
/// Per-vCPU: profiler sample.
pub const VIRQ_XENOPROF: u32 = 7;
/// dom0: console ring has text.
pub const VIRQ_CON_RING: u32 = 8;
/// dom0: a physical CPU changed state.
pub const VIRQ_PCPU_STATE: u32 = 9;
/// dom0: memory event.
pub const VIRQ_MEM_EVENT: u32 = 10;
/// Argo message.
pub const VIRQ_ARGO: u32 = 11;
/// dom0: host memory is low.
pub const VIRQ_ENOMEM: u32 = 12;
/// Per-vCPU: performance counter.
pub const VIRQ_XENPMU: u32 = 13;
/// First of eight architectural ones (machine check).
pub const VIRQ_ARCH_0: u32 = 16;
/// Virtual interrupts there are.
pub const NR_VIRQS: u32 = 24;

/// vm_assist: switch on.
pub const VMASST_CMD_enable: u32 = 0;
/// vm_assist: switch off.
pub const VMASST_CMD_disable: u32 = 1;
/// vm_assist: mark runstate areas while they change.
pub const VMASST_TYPE_runstate_update_flag: u32 = 5;

/// Start flag: privileged.
pub const SIF_PRIVILEGED: u32 = 1 << 0;
/// Start flag: dom0.
pub const SIF_INITDOMAIN: u32 = 1 << 1;
/// Start flag: the module is a multiboot one.
pub const SIF_MULTIBOOT_MOD: u32 = 1 << 2;
/// Start flag: the module's start is a frame number.
pub const SIF_MOD_START_PFN: u32 = 1 << 3;
/// Start flag: tools know a virtually mapped p2m.
pub const SIF_VIRT_P2M_4TOOLS: u32 = 1 << 4;

/// vCPUs whose [`VcpuInfo`] starts in the shared info page.
pub const XEN_LEGACY_MAX_VCPUS: usize = 32;
/// Port that an HVM guest's early text goes to, byte by byte.
pub const XEN_HVM_DEBUGCONS_IOPORT: u16 = 0xE9;
/// Emulation flag of a domain: local APIC (what PVH has).
pub const XEN_X86_EMU_LAPIC: u32 = 1 << 0;
/// Emulation flag of a domain: I/O APIC (a PVH dom0 has it too).
pub const XEN_X86_EMU_IOAPIC: u32 = 1 << 4;
/// Emulation flag of a domain: PCI configuration (a PVH dom0 has it too).
pub const XEN_X86_EMU_VPCI: u32 = 1 << 10;
/// Flag of [`VcpuTimeInfo`]: all vCPUs' copies agree, reads need no cross-CPU check.
pub const XEN_PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0;
/// Flag of [`VcpuTimeInfo`]: the guest was stopped from outside.
pub const XEN_PVCLOCK_GUEST_STOPPED: u8 = 1 << 1;

/// How a vCPU turns its TSC into system time: `system_time + ((tsc - tsc_timestamp) << shift) * mul >> 32`.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Odd while the rest changes.
    pub version: u32,
    /// Padding.
    pub _pad0: u32,
    /// Guest TSC at `system_time`.
    pub tsc_timestamp: u64,
    /// ns since the hypervisor started.
    pub system_time: u64,
    /// 0.32 fixed point ns per (shifted) tick.
    pub tsc_to_system_mul: u32,
    /// Left shift of the tick count; right where negative.
    pub tsc_shift: i8,
    /// [`XEN_PVCLOCK_TSC_STABLE_BIT`] and its like.
    pub flags: u8,
    /// Padding.
    pub _pad1: [u8; 2],
}

/// A vCPU's part of the shared memory.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct VcpuInfo {
    /// 1: an event waits.
    pub evtchn_upcall_pending: u8,
    /// PV's interrupt flag; HVM and PVH ignore it.
    pub evtchn_upcall_mask: u8,
    /// Padding.
    pub _pad0: [u8; 6],
    /// Bit per word of `SharedInfo::evtchn_pending` to look at.
    pub evtchn_pending_sel: u64,
    /// Fault address of PV guests.
    pub cr2: u64,
    /// Padding.
    pub _pad1: u64,
    /// The PV clock.
    pub time: VcpuTimeInfo,
}

/// The page a domain shares with the hypervisor, as far as it is defined (3136 of 4096 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SharedInfo {
    /// Per vCPU, until moved by VCPUOP_register_vcpu_info.
    pub vcpu_info: [VcpuInfo; XEN_LEGACY_MAX_VCPUS],
    /// Bit per two-level port: pending.
    pub evtchn_pending: [u64; 64],
    /// Bit per two-level port: masked.
    pub evtchn_mask: [u64; 64],
    /// Odd while the wall clock changes.
    pub wc_version: u32,
    /// Wall-clock seconds at system time 0, low half.
    pub wc_sec: u32,
    /// And ns.
    pub wc_nsec: u32,
    /// High half of the seconds.
    pub wc_sec_hi: u32,
    /// PV page-to-frame list and its like (arch part).
    pub arch: [u64; 6],
}

/// Offset of [`SharedInfo::evtchn_pending`] in the page.
pub const SHARED_INFO_EVTCHN_PENDING: usize = offset_of!(SharedInfo, evtchn_pending);
/// Offset of [`SharedInfo::evtchn_mask`] in the page.
pub const SHARED_INFO_EVTCHN_MASK: usize = offset_of!(SharedInfo, evtchn_mask);
/// Offset of [`SharedInfo::wc_version`] in the page.
pub const SHARED_INFO_WC_VERSION: usize = offset_of!(SharedInfo, wc_version);
/// Offset of [`SharedInfo::wc_sec`] in the page.
pub const SHARED_INFO_WC_SEC: usize = offset_of!(SharedInfo, wc_sec);
/// Offset of [`SharedInfo::wc_nsec`] in the page.
pub const SHARED_INFO_WC_NSEC: usize = offset_of!(SharedInfo, wc_nsec);
/// Offset of [`SharedInfo::wc_sec_hi`] in the page.
pub const SHARED_INFO_WC_SEC_HI: usize = offset_of!(SharedInfo, wc_sec_hi);
/// Offset of [`VcpuInfo::evtchn_upcall_pending`] in it.
pub const VCPU_INFO_UPCALL_PENDING: usize = offset_of!(VcpuInfo, evtchn_upcall_pending);
/// Offset of [`VcpuInfo::evtchn_pending_sel`] in it.
pub const VCPU_INFO_PENDING_SEL: usize = offset_of!(VcpuInfo, evtchn_pending_sel);
/// Offset of [`VcpuInfo::time`] in it.
pub const VCPU_INFO_TIME: usize = offset_of!(VcpuInfo, time);

/// A bitmap of the caller's, in toolstack calls.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenctlBitmap {
    /// Linear address of its bytes.
    pub bitmap: u64,
    /// Bits.
    pub nr_bits: u32,
    /// Padding.
    pub _pad: u32,
}

/// One call of a multicall.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct MulticallEntry {
    /// Hypercall number.
    pub op: u64,
    /// Out: its result.
    pub result: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// The console that dom0 inherits, head of it: text mode or a frame buffer.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Dom0VgaConsoleInfo {
    /// [`XEN_VGATYPE_TEXT_MODE_3`] and its like.
    pub video_type: u8,
    /// Padding.
    pub _pad0: [u8; 3],
    /// Text mode: font height.
    pub font_height: u16,
    /// Text mode: cursor column.
    pub cursor_x: u16,
    /// Text mode: cursor row.
    pub cursor_y: u16,
    /// Text mode: rows.
    pub rows: u16,
    /// Text mode: columns.
    pub columns: u16,
    /// Padding.
    pub _pad1: u16,
}

/// The same where the console is a frame buffer.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Dom0FrameBufferInfo {
    /// [`XEN_VGATYPE_EFI_LFB`] and its like.
    pub video_type: u8,
    /// Padding.
    pub _pad0: [u8; 3],
    /// Pixels of a line.
    pub width: u16,
    /// Lines.
    pub height: u16,
    /// Bytes from line to line.
    pub bytes_per_line: u16,
    /// Bits of a pixel.
    pub bits_per_pixel: u16,
    /// Where it is.
    pub lfb_base: u32,
    /// How large it is, in units of 64 KiB.
    pub lfb_size: u32,
    /// Position and size of red in a pixel, in bits.
    pub red: [u8; 2],
    /// Of green.
    pub green: [u8; 2],
    /// Of blue.
    pub blue: [u8; 2],
    /// Of what is not used.
    pub reserved: [u8; 2],
    /// VESA's capabilities.
    pub gbl_caps: u32,
    /// VESA's attributes of the mode.
    pub mode_attrs: u16,
    /// Padding.
    pub _pad1: u16,
    /// The upper half of where it is.
    pub ext_lfb_base: u32,
}

/// Console type: a frame buffer that EFI set up.
pub const XEN_VGATYPE_EFI_LFB: u8 = 0x70;
/// Console type: VGA text, mode 3.
pub const XEN_VGATYPE_TEXT_MODE_3: u8 = 0x03;
