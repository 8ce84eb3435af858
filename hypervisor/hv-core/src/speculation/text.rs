//! The decision as a line of the boot log.

use core::fmt;

use super::{Defences, Plan, Weakness};

/// Their names in the log.
pub(super) const DEFENCE_NAMES: [(Defences, &str); 16] = [
    (Defences::IBRS, "IBRS"),
    (Defences::BHI_DIS_S, "BHI_DIS_S"),
    (Defences::SSBD, "SSBD"),
    (Defences::IBPB_DOMAIN, "IBPB-domain"),
    (Defences::IBPB_ENTRY, "IBPB-entry"),
    (Defences::L1D_FLUSH, "L1D-flush"),
    (Defences::VERW, "VERW"),
    (Defences::RSB_STUFF, "RSB"),
    (Defences::RSB_ONE, "RSB-one"),
    (Defences::BHB_SHORT, "BHB-short"),
    (Defences::BHB_LONG, "BHB-long"),
    (Defences::AUTO_IBRS, "automatic IBRS"),
    (Defences::SPEC_REDUCE, "BP_SPEC_REDUCE"),
    (Defences::FP_BACKUP_FIX, "FP_BACKUP_FIX"),
    (Defences::GUEST_CONTROLS, "guests' SPEC_CTRL"),
    (Defences::GUEST_IBPB, "guests' IBPB"),
];

impl fmt::Display for Plan {
    /// One line of the boot log: what is on; what a guest may still use.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LEFT: [(Weakness, &str); 15] = [
            (Weakness::L1TF, "L1TF"),
            (Weakness::MDS, "MDS"),
            (Weakness::TAA, "TAA"),
            (Weakness::RFDS, "RFDS"),
            (Weakness::SRBDS, "SRBDS"),
            (Weakness::GDS, "GDS"),
            (Weakness::BTI, "branch targets"),
            (Weakness::RSB, "return stack"),
            (Weakness::BHI, "branch history"),
            (Weakness::ITS, "ITS"),
            (Weakness::BTC, "branch types"),
            (Weakness::SRSO, "SRSO"),
            (Weakness::TSA, "TSA"),
            (Weakness::ZENBLEED, "Zenbleed"),
            (Weakness::DIV, "divider"),
        ];
        let on = DEFENCE_NAMES
            .iter()
            .filter(|(flag, _)| self.defences.contains(*flag));
        list(
            f,
            on.map(|(flag, name)| match *flag {
                Defences::IBRS if self.defences.contains(Defences::IBRS_ENHANCED) => {
                    "enhanced IBRS"
                }
                _ => name,
            }),
        )?;
        f.write_str("; unprotected: ")?;
        let left = LEFT
            .iter()
            .filter(|(flag, _)| self.unprotected.contains(*flag));
        list(f, left.map(|(_, name)| *name))
    }
}

fn list<'a>(f: &mut fmt::Formatter<'_>, names: impl Iterator<Item = &'a str>) -> fmt::Result {
    let mut is_empty = true;
    for name in names {
        if !is_empty {
            f.write_str(", ")?;
        }
        f.write_str(name)?;
        is_empty = false;
    }
    if is_empty {
        f.write_str("nothing")
    } else {
        Ok(())
    }
}
