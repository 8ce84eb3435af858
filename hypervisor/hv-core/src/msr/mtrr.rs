//! The memory type range registers of one vCPU: stored, checked, and without effect.
//!
//! Memory types come from stage 2 and the guest's PAT. A guest starts with "enabled, everything write-back" (0x806), as
//! firmware would leave it; with type UC Linux takes all its RAM for uncacheable and gives it up.

use guest_abi::hvm::save::HvmHwMtrr;

use super::number;

/// Variable ranges that MTRRCAP announces.
const VARIABLE: usize = 8;
/// MTRRCAP: the variable ranges, fixed ranges, write-combining.
const CAPABILITIES: u64 = VARIABLE as u64 | 1 << 8 | 1 << 10;
/// Default type WB, enabled.
const DEFAULT_TYPE: u64 = 0x806;

/// The fixed ranges' MSRs in ascending order of address.
const FIXED: [u32; 11] = [
    number::IA32_MTRR_FIX64K_00000,
    number::IA32_MTRR_FIX16K_80000,
    number::IA32_MTRR_FIX16K_A0000,
    number::IA32_MTRR_FIX4K_C0000,
    number::IA32_MTRR_FIX4K_C0000 + 1,
    number::IA32_MTRR_FIX4K_C0000 + 2,
    number::IA32_MTRR_FIX4K_C0000 + 3,
    number::IA32_MTRR_FIX4K_C0000 + 4,
    number::IA32_MTRR_FIX4K_C0000 + 5,
    number::IA32_MTRR_FIX4K_C0000 + 6,
    number::IA32_MTRR_FIX4K_C0000 + 7,
];

/// The registers' values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mtrrs {
    def_type: u64,
    fixed: [u64; 11],
    /// Base and mask by turns.
    variable: [u64; 2 * VARIABLE],
}

impl Mtrrs {
    pub(super) const RESET: Self = Self {
        def_type: DEFAULT_TYPE,
        fixed: [0; 11],
        variable: [0; 2 * VARIABLE],
    };

    /// The value of `msr`, or `None` where it is no MTRR.
    pub(super) fn read(&self, msr: u32) -> Option<u64> {
        match msr {
            number::IA32_MTRRCAP => Some(CAPABILITIES),
            number::IA32_MTRR_DEF_TYPE => Some(self.def_type),
            _ => match fixed_index(msr) {
                Some(i) => nospec::get::<{ nospec::MTRRS }, _>(&self.fixed, i).copied(),
                None => nospec::get::<{ nospec::MTRRS }, _>(&self.variable, variable_index(msr)?)
                    .copied(),
            },
        }
    }

    pub(super) fn record(&self, pat: u64) -> HvmHwMtrr {
        HvmHwMtrr {
            msr_pat_cr: pat,
            msr_mtrr_var: self.variable,
            msr_mtrr_fixed: self.fixed,
            msr_mtrr_cap: CAPABILITIES,
            msr_mtrr_def_type: self.def_type,
        }
    }

    /// The registers of a record; `None` where one of them could not be written so.
    pub(super) fn from_record(record: &HvmHwMtrr, physical_bits: u8) -> Option<Self> {
        let mut mtrrs = Self::RESET;
        let variable = (number::IA32_MTRR_PHYSBASE0..).zip(record.msr_mtrr_var);
        let fixed = FIXED.into_iter().zip(record.msr_mtrr_fixed);
        let def_type = (number::IA32_MTRR_DEF_TYPE, record.msr_mtrr_def_type);
        for (msr, value) in variable.chain(fixed).chain([def_type]) {
            mtrrs.write(msr, value, physical_bits)?;
        }
        Some(mtrrs)
    }

    /// Stores `value` in `msr`. `None` where that is no MTRR, may not be written, or not with that value.
    pub(super) fn write(&mut self, msr: u32, value: u64, physical_bits: u8) -> Option<()> {
        if msr == number::IA32_MTRR_DEF_TYPE {
            let type_is_valid = is_type(value & 0xff);
            self.def_type = Some(value).filter(|v| type_is_valid && v & !0xcff == 0)?;
        } else if let Some(i) = fixed_index(msr) {
            let valid = value.to_le_bytes().iter().all(|t| is_type(u64::from(*t)));
            *nospec::get_mut::<{ nospec::MTRRS }, _>(&mut self.fixed, i)? =
                Some(value).filter(|_| valid)?;
        } else {
            let i = variable_index(msr)?;
            let beyond = !0 << physical_bits.clamp(32, 52);
            let (reserved, type_is_valid) = if i % 2 == 0 {
                (beyond | 0xf00, is_type(value & 0xff))
            } else {
                (beyond | 0x7ff, true)
            };
            let valid = type_is_valid && value & reserved == 0;
            *nospec::get_mut::<{ nospec::MTRRS }, _>(&mut self.variable, i)? =
                Some(value).filter(|_| valid)?;
        }
        Some(())
    }
}

/// UC, WC, WT, WP or WB.
fn is_type(value: u64) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

fn fixed_index(msr: u32) -> Option<usize> {
    let index = match msr {
        number::IA32_MTRR_FIX64K_00000 => 0,
        number::IA32_MTRR_FIX16K_80000 => 1,
        number::IA32_MTRR_FIX16K_A0000 => 2,
        _ => {
            let n = msr.checked_sub(number::IA32_MTRR_FIX4K_C0000)?;
            3 + usize::try_from(n).ok().filter(|n| *n < 8)?
        }
    };
    Some(index)
}

fn variable_index(msr: u32) -> Option<usize> {
    let n = msr.checked_sub(number::IA32_MTRR_PHYSBASE0)?;
    usize::try_from(n).ok().filter(|n| *n < 2 * VARIABLE)
}
