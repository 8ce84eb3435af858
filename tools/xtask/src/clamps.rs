//! Whether numbers from guests are clamped in the code that was built, not just in the source: a compiler that proves a
//! clamp void leaves it out, and no test of what the code computes sees that.
//!
//! Each clamp of the crate `nospec` leaves its address and its table's number in the section `.nospec`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use elf::ElfBytes;
use elf::endian::LittleEndian;

/// Checks that each table has a clamp in the program, and that each is what it should be.
///
/// # Errors
/// The tables that have none; an address where there is none.
pub(crate) fn check(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
    let elf = ElfBytes::<LittleEndian>::minimal_parse(&bytes)?;
    let data = |name: &str| -> Result<(u64, &[u8])> {
        let header = elf.section_header_by_name(name)?;
        let header = header.with_context(|| format!("the program has no section {name}"))?;
        Ok((header.sh_addr, elf.section_data(&header)?.0))
    };
    let ((start, text), (_, clamps)) = (data(".text")?, data(".nospec")?);
    missing(start, text, clamps)
}

/// `text` begins at the address `start`.
fn missing(start: u64, text: &[u8], clamps: &[u8]) -> Result<()> {
    let (pairs, rest) = clamps.as_chunks::<16>();
    ensure!(rest.is_empty(), "the section .nospec ends within an entry");
    let mut found = BTreeSet::new();
    for pair in pairs {
        let (halves, _) = pair.as_chunks::<8>();
        let [address, table] = [halves[0], halves[1]].map(u64::from_le_bytes);
        // the linker leaves 0 for what it has thrown away, and its offset for what lay in a section with it
        let Some(offset) = address.checked_sub(start) else {
            continue;
        };
        let offset = usize::try_from(offset)?;
        let code = text.get(offset..).unwrap_or_default();
        ensure!(is_clamp(code), "no clamp at {address:#x}");
        found.insert(usize::try_from(table)?);
    }
    let tables = nospec::TABLES.iter().enumerate();
    let missing: Vec<_> = tables
        .filter(|(number, _)| !found.contains(number))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the program has no clamp for numbers from guests at {}",
        missing.join(", ")
    )
}

/// True where `code` begins with CMP of 64 bits, and SBB of a register with itself.
/// Source: Intel SDM vol. 2, "CMP", "SBB".
fn is_clamp(code: &[u8]) -> bool {
    let is_wide = |byte: u8| byte & 0xF8 == 0x48;
    let length = match code {
        // CMP r/m, r with two registers
        [prefix, 0x39, modrm, ..] if is_wide(*prefix) && *modrm >= 0xC0 => 3,
        // CMP r/m, imm8 and imm32 with a register; CMP RAX, imm32
        [prefix, 0x83, modrm, ..] if is_wide(*prefix) && *modrm >= 0xF8 => 4,
        [prefix, 0x81, modrm, ..] if is_wide(*prefix) && *modrm >= 0xF8 => 7,
        [0x48, 0x3D, ..] => 6,
        _ => return false,
    };
    let sbb = code.get(length..length + 3);
    sbb.is_some_and(|sbb| {
        let [prefix, opcode, modrm] = [sbb[0], sbb[1], sbb[2]];
        let (extended_reg, extended_rm) = (prefix >> 2 & 1, prefix & 1);
        let is_self = extended_reg == extended_rm && modrm >> 3 & 7 == modrm & 7;
        is_wide(prefix) && opcode == 0x19 && modrm >= 0xC0 && is_self
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CMP RAX, RCX; SBB R8, R8.
    const CLAMP: [u8; 6] = [0x48, 0x39, 0xC8, 0x4D, 0x19, 0xC0];

    fn entry(address: u64, table: usize) -> Vec<u8> {
        [address, table as u64].map(u64::to_le_bytes).concat()
    }

    fn entries(tables: usize) -> Vec<u8> {
        (0..tables).flat_map(|table| entry(0x1000, table)).collect()
    }

    #[test]
    fn table_without_a_clamp_is_named() {
        let all = nospec::TABLES.len();
        assert!(missing(0x1000, &CLAMP, &entries(all)).is_ok());
        let why = missing(0x1000, &CLAMP, &entries(all - 1)).expect_err("the last is missing");
        assert!(why.to_string().ends_with(nospec::TABLES[all - 1]), "{why}");
    }

    #[test]
    fn clamp_that_the_linker_threw_away_does_not_count() {
        let mut clamps = entries(nospec::TABLES.len() - 1);
        clamps.extend(entry(0, nospec::TABLES.len() - 1));
        assert!(missing(0x1000, &CLAMP, &clamps).is_err());
    }

    #[test]
    fn other_code_is_no_clamp() {
        assert!(is_clamp(&CLAMP));
        assert!(is_clamp(&[0x48, 0x83, 0xF8, 0x2A, 0x48, 0x19, 0xC9]));
        assert!(is_clamp(&[0x49, 0x83, 0xF8, 0x2A, 0x48, 0x19, 0xC9]));
        assert!(
            !is_clamp(&[0x48, 0x39, 0xC8, 0x4D, 0x19, 0xC8]),
            "another register"
        );
        assert!(
            !is_clamp(&[0x48, 0x01, 0xC8, 0x4D, 0x19, 0xC0]),
            "an addition"
        );
        assert!(missing(0x1000, &CLAMP, &entry(0x1001, 0)).is_err());
    }
}
