//! What the CPU and memory hold when the guest's first instruction runs.

use guest_abi::arch_x86::hvm::start_info::{XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_START_MAGIC_VALUE};
use guest_abi::xen::{SIF_INITDOMAIN, SIF_PRIVILEGED};
use guest_rt::{Test, Verdict, check, check_eq, entry, insn, memory, skip};

pub(crate) static TESTS: &[Test] = &[
    Test::new(
        "entry_general_registers_are_zero_but_ebx",
        general_registers,
    ),
    Test::new("entry_control_registers", control_registers),
    Test::new("entry_debug_registers", debug_registers),
    Test::new("entry_segments", segments),
    Test::new("start_info_fields", start_info),
    Test::new("start_info_lies_in_low_ram", start_info_place),
    Test::new("start_info_memory_map_is_sorted_and_disjoint", memory_map),
    Test::new("start_info_image_is_ram", image_is_ram),
    Test::new("start_info_rsdp", rsdp),
];

fn need_hypervisor() -> Verdict {
    if !guest_rt::hypercall::present() {
        skip!("no hypervisor");
    }
    Ok(())
}

fn general_registers() -> Verdict {
    need_hypervisor()?;
    let state = entry::state();
    for (index, name) in ["eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp"]
        .iter()
        .enumerate()
    {
        if index != entry::EBX {
            check_eq!(state.gprs[index], 0, "{name} at entry");
        }
    }
    Ok(())
}

fn control_registers() -> Verdict {
    need_hypervisor()?;
    let state = entry::state();
    check!(
        state.cr0 & !0x10 == 1,
        "CR0 {:#x}, want PE (and ET)",
        state.cr0
    );
    check_eq!(state.cr3, 0, "CR3");
    check_eq!(state.cr4, 0, "CR4");
    check_eq!(state.efer, [0, 0], "EFER");
    check_eq!(state.eflags, 2, "EFLAGS");
    Ok(())
}

fn debug_registers() -> Verdict {
    check_eq!(entry::state().dr6, 0xFFFF_0FF0, "DR6");
    check_eq!(entry::state().dr7, 0x400, "DR7");
    Ok(())
}

/// That they are flat shows in that the entry code ran; the selectors are free, but null ones could not be reloaded.
fn segments() -> Verdict {
    let [cs, ds, es, ss, _tr, ldtr] = entry::state().selectors;
    check!(
        cs & 3 == 0 && ds & 3 == 0 && es & 3 == 0 && ss & 3 == 0,
        "RPL not 0: {cs:#x} {ds:#x} {es:#x} {ss:#x}"
    );
    check!(ldtr & 0xFFFC == 0, "LDTR {ldtr:#x} is not null");
    Ok(())
}

fn start_info() -> Verdict {
    let info = entry::start_info();
    check_eq!(info.magic, XEN_HVM_START_MAGIC_VALUE, "magic");
    check!(info.version <= 1, "version {}", info.version);
    check_eq!(info.reserved, 0, "reserved");
    if guest_rt::hypercall::present() {
        let domid = insn::cpuid(0x4000_0004, 0).ecx;
        let want = if domid == 0 {
            SIF_PRIVILEGED | SIF_INITDOMAIN
        } else {
            0
        };
        check_eq!(info.flags, want, "flags of domain {domid}");
    }
    Ok(())
}

fn start_info_place() -> Verdict {
    let address = u64::from(entry::state().gprs[entry::EBX]);
    let info = entry::start_info();
    for (name, at, limit) in [
        ("start info", address, 1u64 << 30),
        ("memory map", info.memmap_paddr, 1 << 30),
        ("module list", info.modlist_paddr, 1 << 30),
        ("command line", info.cmdline_paddr, 1 << 32),
    ] {
        check!(at < limit, "{name} at {at:#x}, want below {limit:#x}");
        if at != 0 && info.memmap_entries != 0 {
            check_eq!(
                memory::type_of(at),
                Some(XEN_HVM_MEMMAP_TYPE_RAM),
                "memory type of the {name} at {at:#x}"
            );
        }
    }
    Ok(())
}

fn memory_map() -> Verdict {
    let mut previous_end = 0;
    let mut entries = 0;
    let mut wrong = None;
    memory::for_each_range(|start, size, kind| {
        entries += 1;
        let end = start.checked_add(size);
        if size == 0 || start < previous_end || end.is_none() || !(1..=7).contains(&kind) {
            wrong.get_or_insert((start, size, kind));
        }
        previous_end = end.unwrap_or(u64::MAX);
    });
    if entries == 0 {
        skip!("no memory map");
    }
    check!(entries <= 127, "{entries} entries, Linux takes 127");
    check!(
        wrong.is_none(),
        "out of order, empty or of no type: {wrong:x?}"
    );
    Ok(())
}

fn image_is_ram() -> Verdict {
    let (start, end) = entry::image();
    let mut at = start;
    while at < end {
        check_eq!(
            memory::type_of(at),
            Some(XEN_HVM_MEMMAP_TYPE_RAM),
            "memory type at {at:#x}"
        );
        at += memory::PAGE_SIZE;
    }
    Ok(())
}

fn rsdp() -> Verdict {
    let at = entry::start_info().rsdp_paddr;
    if at == 0 {
        skip!("no RSDP");
    }
    check!(at < memory::MAPPED_END, "RSDP at {at:#x}");
    check_eq!(
        insn::peek(at),
        Ok(u64::from_le_bytes(*b"RSD PTR ")),
        "signature of the RSDP at {at:#x}"
    );
    Ok(())
}
