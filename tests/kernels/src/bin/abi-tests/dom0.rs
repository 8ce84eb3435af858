//! What only dom0 has: the I/O APIC and a real interrupt line, calls about the machine, the table of its own grants.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use guest_abi::grant_table::{
    GNTST_okay, GNTTABOP_query_size, GNTTABOP_set_version, GnttabQuerySize, GnttabSetVersion,
};
use guest_abi::memory::{
    XENMAPSPACE_grant_table, XENMEM_add_to_physmap, XENMEM_populate_physmap, XenAddToPhysmap,
    XenMemoryReservation,
};
use guest_abi::physdev::{
    PHYSDEVOP_pci_device_add, PHYSDEVOP_pci_device_remove, PhysdevPciDevice, PhysdevPciDeviceAdd,
};
use guest_abi::platform::{
    XENPF_INTERFACE_VERSION, XENPF_get_cpuinfo, XENPF_settime64, XenPlatformOp, XenpfPcpuinfo,
    XenpfSettime64,
};
use guest_abi::xen::{
    __HYPERVISOR_console_io, __HYPERVISOR_grant_table_op, __HYPERVISOR_physdev_op,
    __HYPERVISOR_platform_op, CONSOLEIO_read, DOMID_SELF, SHARED_INFO_WC_SEC,
};
use guest_rt::insn::{self, inb, outb};
use guest_rt::{
    Stop, Test, Verdict, broken, check, check_eq, event, hypercall, memory, skip, time, traps,
};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) static TESTS: &[Test] = &[
    Test::new("dom0_ioapic_registers", ioapic),
    Test::new("dom0_rtc_interrupt_by_ioapic", rtc_interrupt),
    Test::new("dom0_masked_line_does_not_interrupt", masked_line),
    Test::new("dom0_sets_the_wall_clock", set_time),
    Test::new("dom0_describes_cpus", cpu_info),
    Test::new("dom0_reports_pci_devices", pci_devices),
    Test::new("dom0_console_read_is_empty", console_read),
    Test::new("dom0_grant_table", grant_table),
];

fn need_dom0() -> Verdict {
    event::setup()?;
    if insn::cpuid(0x4000_0004, 0).ecx != 0 {
        skip!("not dom0");
    }
    Ok(())
}

const IOAPIC: u64 = 0xFEC0_0000;
const RTC_PIN: u32 = 8;
const VECTOR: u8 = 0x51;
const MASKED: u32 = 1 << 16;

fn ioapic_read(register: u32) -> Result<u32, Stop> {
    insn::write_mmio32(IOAPIC, register)
        .and_then(|()| insn::read_mmio32(IOAPIC + 0x10))
        .map_err(|fault| broken!("the I/O APIC faults: {fault:?}"))
}

fn ioapic_write(register: u32, value: u32) -> Verdict {
    insn::write_mmio32(IOAPIC, register)
        .and_then(|()| insn::write_mmio32(IOAPIC + 0x10, value))
        .map_err(|fault| broken!("the I/O APIC faults: {fault:?}"))
}

fn ioapic() -> Verdict {
    need_dom0()?;
    let version = ioapic_read(1)?;
    check!(
        (0x10..0x30).contains(&(version & 0xFF)),
        "version {version:#x}"
    );
    check!(
        version >> 16 & 0xFF >= 23,
        "{} pins",
        (version >> 16 & 0xFF) + 1
    );
    for pin in 0..=version >> 16 & 0xFF {
        let entry = ioapic_read(0x10 + pin * 2)?;
        check!(entry & MASKED != 0, "pin {pin} starts unmasked: {entry:#x}");
    }
    ioapic_write(0x10 + RTC_PIN * 2, MASKED | 0xA5)?;
    check_eq!(
        ioapic_read(0x10 + RTC_PIN * 2)?,
        MASKED | 0xA5,
        "an entry reads back"
    );
    ioapic_write(0x11 + RTC_PIN * 2, 0)
}

static TAKEN: AtomicU32 = AtomicU32::new(0);

fn rtc_read(register: u8) -> u8 {
    outb(0x70, register);
    inb(0x71)
}

fn rtc_write(register: u8, value: u8) {
    outb(0x70, register);
    outb(0x71, value);
}

/// The RTC's periodic interrupt at 1024 Hz, its pin set to `entry`; how many came in 20 ms.
fn rtc_interrupts(entry: u32) -> Result<u32, Stop> {
    need_dom0()?;
    traps::set_handler(
        VECTOR,
        Some(|_| {
            TAKEN.fetch_add(1, SeqCst);
            let _ = insn::wrmsr_safe(event::X2APIC_EOI, 0);
            // reading C lets the next one come
            let _ = rtc_read(0x0C);
        }),
    );
    TAKEN.store(0, SeqCst);
    let (a, b) = (rtc_read(0x0A), rtc_read(0x0B));
    rtc_write(0x0A, a & 0xF0 | 6);
    ioapic_write(0x11 + RTC_PIN * 2, 0)?;
    ioapic_write(0x10 + RTC_PIN * 2, entry)?;
    let _ = rtc_read(0x0C);
    rtc_write(0x0B, b | 0x40);
    time::wait(20 * time::MS, || false);
    rtc_write(0x0B, b & !0x40);
    rtc_write(0x0A, a);
    ioapic_write(0x10 + RTC_PIN * 2, MASKED)?;
    let _ = rtc_read(0x0C);
    Ok(TAKEN.load(SeqCst))
}

fn rtc_interrupt() -> Verdict {
    let count = rtc_interrupts(u32::from(VECTOR))?;
    check!(
        (15..=25).contains(&count),
        "{count} interrupts of 1024 Hz in 20 ms"
    );
    Ok(())
}

fn masked_line() -> Verdict {
    check_eq!(rtc_interrupts(MASKED | u32::from(VECTOR))?, 0, "interrupts");
    Ok(())
}

/// platform_op with `body` at the start of its union; the result, and the body that came back.
fn platform<T: IntoBytes + FromBytes + zerocopy::Immutable>(
    cmd: u32,
    body: &T,
) -> (i64, Option<T>) {
    let mut op = XenPlatformOp {
        cmd,
        interface_version: XENPF_INTERFACE_VERSION,
        u: [0; 128],
    };
    let result = match op.u.get_mut(..size_of::<T>()) {
        Some(start) => {
            start.copy_from_slice(body.as_bytes());
            hypercall::with_only(__HYPERVISOR_platform_op, &mut op)
        }
        None => return (0, None),
    };
    (
        result,
        T::read_from_prefix(&op.u).ok().map(|(body, _)| body),
    )
}

fn set_time() -> Verdict {
    need_dom0()?;
    let before = event::shared_word32(SHARED_INFO_WC_SEC);
    let system_time = time::now_ns();
    let secs = u64::from(before) + 100_000 + system_time / 1_000_000_000;
    let wanted = XenpfSettime64 {
        secs,
        nsecs: 0,
        mbz: 0,
        system_time,
    };
    check_eq!(platform(XENPF_settime64, &wanted).0, 0, "settime64");
    let after = event::shared_word32(SHARED_INFO_WC_SEC);
    check!(
        after.abs_diff(before + 100_000) <= 1,
        "system time 0 was {before} s, now {after} s"
    );
    let back = XenpfSettime64 {
        secs: secs - 100_000,
        ..wanted
    };
    check_eq!(platform(XENPF_settime64, &back).0, 0, "settime64 back");
    Ok(())
}

fn cpu_info() -> Verdict {
    need_dom0()?;
    let (result, info) = platform(XENPF_get_cpuinfo, &XenpfPcpuinfo::default());
    check_eq!(result, 0, "get_cpuinfo of CPU 0");
    check!(
        info.is_some_and(|info| info.flags & 1 != 0),
        "CPU 0 is not online: {info:?}"
    );
    let beyond = XenpfPcpuinfo {
        xen_cpuid: 4000,
        ..Default::default()
    };
    let (result, info) = platform(XENPF_get_cpuinfo, &beyond);
    let is_refused = result < 0 || info.is_some_and(|info| info.flags & 2 != 0);
    check!(is_refused, "get_cpuinfo of CPU 4000: {result}, {info:?}");
    Ok(())
}

fn pci_devices() -> Verdict {
    need_dom0()?;
    let mut add = PhysdevPciDeviceAdd::default();
    let result = hypercall::with(__HYPERVISOR_physdev_op, PHYSDEVOP_pci_device_add, &mut add);
    check_eq!(result, 0, "pci_device_add of the host bridge");
    let mut gone = PhysdevPciDevice {
        seg: 0,
        bus: 0xFE,
        devfn: 0xF8,
    };
    let result = hypercall::with(
        __HYPERVISOR_physdev_op,
        PHYSDEVOP_pci_device_remove,
        &mut gone,
    );
    check!(result <= 0, "pci_device_remove of none: {result}");
    Ok(())
}

fn console_read() -> Verdict {
    need_dom0()?;
    let mut text = [0u64; 8];
    let length = size_of_val(&text) as u64;
    let result = hypercall::with_buffer(
        __HYPERVISOR_console_io,
        u64::from(CONSOLEIO_read),
        length,
        &mut text,
    );
    check_eq!(result, 0, "bytes read with nobody typing");
    Ok(())
}

fn grant_table() -> Verdict {
    need_dom0()?;
    let Some(at) = memory::spare_range() else {
        skip!("no spare RAM")
    };
    let most = first_version()?;
    add_grant_frames((at >> 12) + 8, most)
}

/// Sets version 1, and says how many frames the table may have.
fn first_version() -> Result<u32, Stop> {
    let mut version = GnttabSetVersion { version: 1 };
    let call = |op: u32, arg: u64| hypercall::with_array(__HYPERVISOR_grant_table_op, op, arg, 1);
    check_eq!(
        call(GNTTABOP_set_version, &raw mut version as u64),
        0,
        "set_version 1"
    );
    let mut size = GnttabQuerySize {
        dom: DOMID_SELF,
        ..Default::default()
    };
    check_eq!(
        call(GNTTABOP_query_size, &raw mut size as u64),
        0,
        "query_size"
    );
    check_eq!(size.status, GNTST_okay, "status of query_size");
    check!(
        size.max_nr_frames >= 4,
        "at most {} frames",
        size.max_nr_frames
    );
    Ok(size.max_nr_frames)
}

/// Maps the table's first frame at `gpfn` and at the next, of at most `most`, and puts RAM back where it was first.
fn add_grant_frames(gpfn: u64, most: u32) -> Verdict {
    let add = |idx, gpfn| {
        let arg = XenAddToPhysmap {
            domid: DOMID_SELF,
            size: 0,
            space: XENMAPSPACE_grant_table,
            idx,
            gpfn,
        };
        hypercall::memory(XENMEM_add_to_physmap, arg).0
    };
    check_eq!(add(0, gpfn), 0, "add_to_physmap of frame 0");
    check!(
        add(u64::from(most) + 1000, gpfn) < 0,
        "add_to_physmap of a frame past the maximum"
    );
    check_eq!(
        insn::peek(gpfn << 12).map(|entry| entry & 0xFFFF),
        Ok(0),
        "flags of entry 0"
    );
    check_eq!(add(0, gpfn + 1), 0, "add_to_physmap elsewhere");
    let arg = XenMemoryReservation {
        extent_start: &raw const gpfn as u64,
        nr_extents: 1,
        domid: DOMID_SELF,
        ..Default::default()
    };
    check_eq!(
        hypercall::memory(XENMEM_populate_physmap, arg).0,
        1,
        "populate_physmap where it was"
    );
    Ok(())
}
