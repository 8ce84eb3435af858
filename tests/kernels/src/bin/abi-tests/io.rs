//! Port I/O: what the hypervisor owns reads all-ones, what dom0 owns is the real thing.

use guest_rt::insn::{inb, inl, inw, outb, outl, outsb};
use guest_rt::{Test, Verdict, check, check_eq, hypercall, insn, skip};

pub(crate) static TESTS: &[Test] = &[
    Test::new("io_denied_ports_read_all_ones", denied),
    Test::new("io_denied_ports_in_all_sizes", sizes),
    Test::new("io_writes_to_denied_ports_are_ignored", ignored),
    Test::new("io_debug_port_takes_strings", debug_port),
    Test::new("io_pci_configuration", pci),
    Test::new("io_rtc_is_there_for_dom0", rtc),
];

/// PIC, PIT, speaker gate, the debug port.
const DENIED: [u16; 11] = [
    0x20, 0x21, 0xA0, 0xA1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x3F8, 0x3FD,
];

fn need_hypervisor() -> Verdict {
    if !hypercall::present() {
        skip!("no hypervisor");
    }
    Ok(())
}

fn denied() -> Verdict {
    need_hypervisor()?;
    for port in DENIED {
        check_eq!(inb(port), 0xFF, "port {port:#x}");
    }
    Ok(())
}

fn sizes() -> Verdict {
    need_hypervisor()?;
    for port in [0x20, 0x40, 0xA0, 0x3F8] {
        check_eq!(inw(port), 0xFFFF, "port {port:#x}, 2 bytes");
        check_eq!(inl(port), 0xFFFF_FFFF, "port {port:#x}, 4 bytes");
    }
    Ok(())
}

fn ignored() -> Verdict {
    need_hypervisor()?;
    for port in [0x21, 0xA1, 0x43, 0x61, 0x3F9] {
        outb(port, 0);
        outl(port, 0);
        check_eq!(inb(port), 0xFF, "port {port:#x} after writes");
    }
    Ok(())
}

fn debug_port() -> Verdict {
    need_hypervisor()?;
    outsb(0xE9, b"(debug port)\n");
    Ok(())
}

fn need_dom0() -> Verdict {
    need_hypervisor()?;
    if insn::cpuid(0x4000_0004, 0).ecx != 0 {
        skip!("not dom0");
    }
    Ok(())
}

fn pci() -> Verdict {
    need_dom0()?;
    outl(0xCF8, 0x8000_0000);
    check_eq!(inl(0xCF8), 0x8000_0000, "address register");
    let id = inl(0xCFC);
    check!(id & 0xFFFF != 0xFFFF, "no host bridge: {id:#x}");
    check_eq!(u32::from(inw(0xCFC)), id & 0xFFFF, "2 bytes of the id");
    check_eq!(u32::from(inb(0xCFE)), id >> 16 & 0xFF, "1 byte of the id");
    outl(0xCF8, 0x80FF_F800);
    check_eq!(inl(0xCFC), u32::MAX, "no device reads all-ones");
    outl(0xCF8, 0);
    Ok(())
}

fn rtc() -> Verdict {
    need_dom0()?;
    outb(0x70, 0x0B);
    let status = inb(0x71);
    check!(status != 0xFF, "the RTC's status B reads {status:#x}");
    Ok(())
}
