//! Copying: by frames and by references, from and to, and what is refused.

use guest_abi::grant_table::{
    GNTCOPY_dest_gref, GNTCOPY_source_gref, GNTST_bad_copy_arg, GNTST_bad_domain, GNTST_bad_gntref,
    GNTST_okay, GNTST_permission_denied, GTF_permit_access, GTF_readonly, GnttabCopyPtr,
};
use guest_abi::xen::DOMID_SELF;
use guest_rt::{Test, Verdict, check, check_eq, insn};

use super::{FIRST_REF, OWN, copy, grant, hole, marks, page, side, table, write};

pub(crate) static TESTS: &[Test] = &[
    Test::new("grant_copy_every_way", copies),
    Test::new("grant_copy_refusals", copy_refusals),
];

fn copies() -> Verdict {
    table()?;
    let (from, to) = (page(1)?, page(4)?);
    grant(FIRST_REF, GTF_permit_access | GTF_readonly, OWN, from)?;
    grant(FIRST_REF + 1, GTF_permit_access, OWN, to)?;
    let ways = [
        (0, from >> 12, to >> 12),
        (GNTCOPY_source_gref, u64::from(FIRST_REF), to >> 12),
        (GNTCOPY_dest_gref, from >> 12, u64::from(FIRST_REF + 1)),
        (
            GNTCOPY_source_gref | GNTCOPY_dest_gref,
            u64::from(FIRST_REF),
            u64::from(FIRST_REF + 1),
        ),
    ];
    for (flags, source, dest) in ways {
        for word in 0..512 {
            write(from + word * 8, word << 32 | u64::from(flags))?;
            write(to + word * 8, u64::MAX)?;
        }
        let granter = |is_reference, side: GnttabCopyPtr| {
            let domid = if is_reference { OWN } else { DOMID_SELF };
            GnttabCopyPtr { domid, ..side }
        };
        let part = copy(
            granter(flags & GNTCOPY_source_gref != 0, side(source, 8)),
            granter(flags & GNTCOPY_dest_gref != 0, side(dest, 24)),
            1000,
            flags,
        )?;
        check_eq!(part, GNTST_okay, "status of a copy with flags {flags}");
        let word = |index: u64| insn::peek(to + index * 8);
        check_eq!(word(2), Ok(u64::MAX), "the word before");
        check_eq!(word(3), Ok(1 << 32 | u64::from(flags)), "the first word");
        check_eq!(word(127), Ok(125 << 32 | u64::from(flags)), "the last word");
        check_eq!(word(128), Ok(u64::MAX), "the word behind");
        let whole = copy(side(source, 0), side(dest, 0), 4096, flags)?;
        check_eq!(whole, GNTST_okay, "status of a whole page");
        check_eq!(
            word(511),
            Ok(511 << 32 | u64::from(flags)),
            "the last of all"
        );
    }
    check_eq!(marks(FIRST_REF)? | marks(FIRST_REF + 1)?, 0, "marks after");
    Ok(())
}

fn copy_refusals() -> Verdict {
    table()?;
    let (from, to) = (page(1)?, page(4)?);
    let hole = hole(2)? >> 12;
    write(to, 0x8888)?;
    grant(FIRST_REF, GTF_permit_access | GTF_readonly, OWN, to)?;
    grant(FIRST_REF + 1, GTF_permit_access, 7, from)?;
    let (from, to) = (from >> 12, to >> 12);
    check_eq!(
        copy(side(from, 4000), side(to, 0), 97, 0)?,
        GNTST_bad_copy_arg,
        "over the end of the source"
    );
    check_eq!(
        copy(side(from, 0), side(to, 65535), 65535, 0)?,
        GNTST_bad_copy_arg,
        "over the end of the target"
    );
    let others = GnttabCopyPtr {
        domid: 7,
        ..side(from, 0)
    };
    check_eq!(
        copy(others, side(to, 0), 8, 0)?,
        GNTST_permission_denied,
        "from another domain's page"
    );
    check_eq!(
        copy(others, side(to, 0), 8, GNTCOPY_source_gref)?,
        GNTST_bad_domain,
        "from no domain's grant"
    );
    for frame in [hole, 0xFEE00, 1 << 40, u64::MAX] {
        check!(
            copy(side(frame, 0), side(to, 0), 8, 0)? < 0,
            "from {frame:#x}"
        );
        check!(
            copy(side(from, 0), side(frame, 0), 8, 0)? < 0,
            "to {frame:#x}"
        );
    }
    let reference = u64::from(FIRST_REF);
    check_eq!(
        copy(side(from, 0), side(reference, 0), 8, GNTCOPY_dest_gref)?,
        GNTST_bad_gntref,
        "to a page that may be read"
    );
    for reference in [FIRST_REF + 1, 400, 512, u32::MAX] {
        let source = side(u64::from(reference), 0);
        check_eq!(
            copy(source, side(to, 0), 8, GNTCOPY_source_gref)?,
            GNTST_bad_gntref,
            "from reference {reference}"
        );
    }
    check_eq!(insn::peek(to << 12), Ok(0x8888), "the target after all");
    check_eq!(marks(FIRST_REF)?, 0, "marks after");
    Ok(())
}
