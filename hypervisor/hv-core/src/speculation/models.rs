//! CPUs by model, where IA32_ARCH_CAPABILITIES does not say it all.
//!
//! A weakness that a CPU announces the absence of (L1TF, MDS …) is there by default, and rows say which models never
//! had it; one that newer CPUs announce the presence of (SRBDS, GDS, RFDS, ITS) is there only where a row says so.

use super::Weakness;

/// What the table says of a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Model {
    /// Model of family 6.
    number: u8,
    /// Steppings to which the row applies, first and last.
    steppings: (u8, u8),
    /// It has these, without saying so.
    pub(super) has: Weakness,
    /// It has these not, without saying so.
    pub(super) has_not: Weakness,
    /// Its branch history is as short as before Alder Lake.
    pub(super) has_short_history: bool,
}

const ANY: (u8, u8) = (0, 15);
const NONE: Weakness = Weakness::empty();
const SRBDS: Weakness = Weakness::SRBDS;
const GDS: Weakness = Weakness::GDS;
const RFDS: Weakness = Weakness::RFDS;
const ITS: Weakness = Weakness::ITS;
/// Post-barrier return-stack predictions.
const NO_PBRSB: Weakness = Weakness::RSB;
const NO_L1TF: Weakness = Weakness::L1TF;
const NO_L1TF_MDS: Weakness = Weakness::L1TF.union(Weakness::MDS);

const fn short(number: u8, steppings: (u8, u8), has: Weakness) -> Model {
    Model {
        number,
        steppings,
        has,
        has_not: NONE,
        has_short_history: true,
    }
}

const fn long(number: u8, has: Weakness) -> Model {
    Model {
        number,
        steppings: ANY,
        has,
        has_not: NONE,
        has_short_history: false,
    }
}

const fn atom(number: u8, has: Weakness, has_not: Weakness) -> Model {
    Model {
        number,
        steppings: ANY,
        has,
        has_not,
        has_short_history: true,
    }
}

/// The table: of two rows for a model the first counts whose steppings fit.
#[rustfmt::skip]
const MODELS: &[Model] = &[
    // Nehalem, Westmere: 2008 to 2011
    short(0x1A, ANY, NONE), short(0x1E, ANY, NONE), short(0x1F, ANY, NONE), short(0x2E, ANY, NONE),
    short(0x25, ANY, NONE), short(0x2C, ANY, NONE), short(0x2F, ANY, NONE),
    // Sandy Bridge, Ivy Bridge; servers of the latter have no SRBDS
    short(0x2A, ANY, NONE), short(0x2D, ANY, NONE),
    short(0x3A, ANY, SRBDS), short(0x3E, ANY, NONE),
    // Haswell, Broadwell: clients, then servers
    short(0x3C, ANY, SRBDS), short(0x45, ANY, SRBDS), short(0x46, ANY, SRBDS), short(0x3F, ANY, NONE),
    short(0x3D, ANY, SRBDS), short(0x47, ANY, SRBDS), short(0x4F, ANY, NONE), short(0x56, ANY, NONE),
    // Skylake clients, Skylake servers, Cascade Lake and Cooper Lake
    short(0x4E, ANY, SRBDS.union(GDS)), short(0x5E, ANY, SRBDS.union(GDS)),
    short(0x55, (0, 5), GDS), short(0x55, (6, 15), GDS.union(ITS)),
    // Kaby Lake to Whiskey Lake and Coffee Lake
    short(0x8E, (0, 11), SRBDS.union(GDS)), short(0x8E, (12, 15), SRBDS.union(GDS).union(ITS)),
    short(0x9E, (0, 12), SRBDS.union(GDS)), short(0x9E, (13, 15), SRBDS.union(GDS).union(ITS)),
    // Cannon Lake, Comet Lake, Rocket Lake
    short(0x66, ANY, NONE),
    short(0xA5, ANY, SRBDS.union(GDS).union(ITS)), short(0xA6, (0, 0), ITS), short(0xA6, (1, 15), SRBDS.union(GDS).union(ITS)),
    short(0xA7, ANY, GDS),
    // Ice Lake: client, D and X; Tiger Lake; Lakefield
    short(0x7D, ANY, SRBDS.union(GDS)), short(0x7E, ANY, SRBDS.union(GDS)), short(0x6C, ANY, GDS), short(0x6A, ANY, GDS),
    short(0x8C, ANY, GDS), short(0x8D, ANY, GDS),
    short(0x8A, ANY, SRBDS),
    // Alder Lake, Raptor Lake
    long(0x97, RFDS), long(0x9A, RFDS), long(0xBE, RFDS), long(0xB7, RFDS), long(0xBA, RFDS), long(0xBF, RFDS),
    // Sapphire Rapids, Emerald Rapids
    long(0x8F, NONE), long(0xCF, NONE),
    // Silvermont, Airmont, Knights
    atom(0x37, NONE, NO_L1TF), atom(0x4A, NONE, NO_L1TF), atom(0x4D, NONE, NO_L1TF),
    atom(0x4C, NONE, NO_L1TF), atom(0x5A, NONE, NO_L1TF), atom(0x75, NONE, NO_L1TF),
    atom(0x57, NONE, NO_L1TF), atom(0x85, NONE, NO_L1TF),
    // Goldmont, Goldmont Plus, Tremont
    atom(0x5C, RFDS, NO_L1TF_MDS), atom(0x5F, RFDS, NO_L1TF_MDS), atom(0x7A, RFDS, NO_L1TF_MDS.union(NO_PBRSB)),
    atom(0x96, RFDS.union(SRBDS), NO_PBRSB), atom(0x9C, RFDS.union(SRBDS), NO_PBRSB), atom(0x86, RFDS, NO_PBRSB),
];

/// Of a CPU that is in no row: as weak as one that says nothing, and with the longest history.
const UNKNOWN: Model = long(0, NONE);

/// What the table says of the CPU with that signature (CPUID leaf 1, EAX).
pub(super) fn find(signature: u32) -> Model {
    let [low, model, extended, _] = signature.to_le_bytes();
    let (stepping, family) = (low & 0xF, model & 0xF);
    if family != 6 {
        return UNKNOWN;
    }
    let number = (extended << 4) | (low >> 4);
    let fits = |row: &&Model| {
        row.number == number && (row.steppings.0..=row.steppings.1).contains(&stepping)
    };
    MODELS.iter().find(fits).copied().unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_fit_the_same_cpu() {
        for (at, row) in MODELS.iter().enumerate() {
            let overlaps = |other: &Model| {
                other.number == row.number
                    && other.steppings.0 <= row.steppings.1
                    && row.steppings.0 <= other.steppings.1
            };
            assert!(!MODELS[at + 1..].iter().any(overlaps), "{:#x}", row.number);
        }
    }

    #[test]
    fn signature_is_taken_apart_as_cpuid_puts_it_together() {
        assert_eq!(find(0x0005_0657).has, GDS.union(ITS));
        assert_eq!(find(0x0005_0654).has, GDS);
        assert_eq!(
            find(0x000C_06F2),
            *MODELS.iter().find(|m| m.number == 0xCF).unwrap()
        );
        assert_eq!(find(0x00A0_0F11), UNKNOWN, "another family");
    }
}
