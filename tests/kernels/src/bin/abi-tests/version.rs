//! xen_version: what the hypervisor says it is.

use guest_abi::features::{
    XENFEAT_auto_translated_physmap, XENFEAT_dom0, XENFEAT_gnttab_map_avail_bits,
    XENFEAT_hvm_callback_vector, XENFEAT_hvm_pirqs, XENFEAT_hvm_safe_pvclock,
    XENFEAT_writable_page_tables,
};
use guest_abi::version::{
    XEN_CAPABILITIES_INFO_LEN, XEN_EXTRAVERSION_LEN, XENVER_capabilities, XENVER_extraversion,
    XENVER_get_features, XENVER_pagesize, XENVER_version, XenFeatureInfo,
};
use guest_abi::xen::__HYPERVISOR_xen_version;
use guest_rt::hypercall::{plain, present, version_text, with};
use guest_rt::{Test, Verdict, check, check_eq, insn, skip};

pub(crate) static TESTS: &[Test] = &[
    Test::new("version_number", number),
    Test::new("version_texts_end", texts),
    Test::new("version_capabilities", capabilities),
    Test::new("version_features", features),
    Test::new("version_texts_stay_in_their_buffers", bounds),
];

fn need_hypervisor() -> Verdict {
    if !present() {
        skip!("no hypervisor");
    }
    Ok(())
}

fn number() -> Verdict {
    need_hypervisor()?;
    check_eq!(
        plain(__HYPERVISOR_xen_version, [u64::from(XENVER_version), 0]),
        0x0004_0011,
        "version"
    );
    check_eq!(
        plain(__HYPERVISOR_xen_version, [u64::from(XENVER_pagesize), 0]),
        4096,
        "page size"
    );
    Ok(())
}

fn texts() -> Verdict {
    need_hypervisor()?;
    // (operation, bytes it may write); 2: four texts, 8: a handle of 16 bytes, 9: the command line
    for (op, len, is_text) in [
        (1, 16, true),
        (2, 144, true),
        (3, 1024, true),
        (4, 64, true),
        (8, 16, false),
        (9, 1024, true),
    ] {
        let mut buffer = [0xFFu8; 1024];
        let result = version_text(op, &mut buffer);
        check!(result >= 0, "sub-operation {op}: {result}");
        check!(
            !is_text || buffer[..len].contains(&0),
            "sub-operation {op}: no NUL in {len} bytes"
        );
    }
    Ok(())
}

fn bounds() -> Verdict {
    need_hypervisor()?;
    for (op, len) in [(1, 16), (2, 144), (3, 1024), (4, 64), (8, 16), (9, 1024)] {
        let mut buffer = [0xA5u8; 1088];
        let _ = version_text(op, &mut buffer);
        check!(
            buffer[len..].iter().all(|&b| b == 0xA5),
            "sub-operation {op} wrote past {len} bytes"
        );
    }
    Ok(())
}

fn capabilities() -> Verdict {
    need_hypervisor()?;
    let mut buffer = [0u8; XEN_CAPABILITIES_INFO_LEN];
    check_eq!(
        version_text(XENVER_capabilities, &mut buffer),
        0,
        "capabilities"
    );
    for wanted in ["x86_64", "hvm-3.0-x86_32 ", "hvm-3.0-x86_64 "] {
        let is_there = buffer
            .windows(wanted.len())
            .any(|window| window == wanted.as_bytes());
        check!(is_there, "no \"{wanted}\" in the capabilities");
    }
    let mut extra = [0xFFu8; XEN_EXTRAVERSION_LEN];
    check_eq!(
        version_text(XENVER_extraversion, &mut extra),
        0,
        "extra version"
    );
    check!(
        extra[0] == b'.' || extra[0] == b'-' || extra[0] == 0,
        "extra version starts with {:#x}",
        extra[0]
    );
    Ok(())
}

fn features() -> Verdict {
    need_hypervisor()?;
    let mut info = XenFeatureInfo {
        submap_idx: 0,
        submap: 0,
    };
    check_eq!(
        with(__HYPERVISOR_xen_version, XENVER_get_features, &mut info),
        0,
        "get_features"
    );
    let has = |bit: u32| info.submap & 1 << bit != 0;
    for bit in [
        XENFEAT_writable_page_tables,
        XENFEAT_auto_translated_physmap,
        XENFEAT_hvm_callback_vector,
        XENFEAT_hvm_safe_pvclock,
    ] {
        check!(has(bit), "feature {bit} is missing in {:#x}", info.submap);
    }
    check!(
        !has(XENFEAT_hvm_pirqs) && !has(XENFEAT_gnttab_map_avail_bits),
        "features {:#x} hold 7 or 10",
        info.submap
    );
    check_eq!(
        has(XENFEAT_dom0),
        insn::cpuid(0x4000_0004, 0).ecx == 0,
        "feature dom0"
    );
    Ok(())
}
