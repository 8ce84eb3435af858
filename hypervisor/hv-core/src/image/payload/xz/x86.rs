//! The x86 filter: calls and jumps have their target where the packer put an absolute one, so that calls of one
//! function look alike; here they become relative again.
//!
//! Source: xz's "The .xz File Format", "Branch/Call/Jump Filters for Executables".

/// CALL and JMP with a relative operand of 32 bits.
const OPCODE: u8 = 0xE8;
const OPCODE_MASK: u8 = 0xFE;
/// An opcode and its operand.
const INSTRUCTION: usize = 5;

/// Turns absolute targets in `bytes`, which begin at `start` for the filter, into relative ones.
pub(super) fn to_relative(bytes: &mut [u8], start: u32) {
    let Some(last) = bytes.len().checked_sub(INSTRUCTION) else {
        return;
    };
    // bit n: the byte n + 1 before this one was an opcode whose operand was left alone
    let mut recent = 0u32;
    let mut at = 0;
    while let Some(next) = find_opcode(bytes, at, last) {
        recent = u32::try_from(next - at)
            .ok()
            .and_then(|gap| recent.checked_shl(gap))
            .unwrap_or(0)
            & 7;
        at = next + 1;
        let operand = bytes[next + 1..]
            .first_chunk_mut()
            .expect("the search ends before the last operand");
        let address = start.wrapping_add(low(next)).wrapping_add(5);
        match convert(u32::from_le_bytes(*operand), address, recent) {
            Some(relative) => {
                *operand = relative.to_le_bytes();
                at += 4;
                recent = 0;
            }
            None => recent = (recent << 1) | 1,
        }
    }
}

/// The first opcode at or after `from`, not after `last`.
fn find_opcode(bytes: &[u8], mut from: usize, last: usize) -> Option<usize> {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    // eight bytes at once: an opcode becomes a byte of zeros, and the lowest of those is found by its borrow
    let (words, _) = bytes.get(from..)?.as_chunks();
    for word in words {
        let zeros =
            (u64::from_le_bytes(*word) ^ (EACH * OPCODE as u64)) & (EACH * OPCODE_MASK as u64);
        let found = zeros.wrapping_sub(EACH) & !zeros & (EACH << 7);
        if found != 0 {
            let at = from + found.trailing_zeros() as usize / 8;
            return (at <= last).then_some(at);
        }
        from += 8;
    }
    (from..=last).find(|&at| bytes[at] & OPCODE_MASK == OPCODE)
}

/// The relative operand for an absolute one, where the packer made it absolute: where it is at most 16 MiB to either
/// side, and no opcode just before it makes it doubtful.
fn convert(operand: u32, address: u32, recent: u32) -> Option<u32> {
    if !is_sign(operand, 3) {
        return None;
    }
    let relative = operand.wrapping_sub(address);
    if recent == 0 {
        return Some(sign_extend(relative));
    }
    if !recent.is_power_of_two() {
        return None;
    }
    // the operand's byte that would be the highest of the earlier opcode's operand
    let place = 2 - recent.trailing_zeros();
    if is_sign(operand, place) {
        return None;
    }
    if !is_sign(relative, place) {
        return Some(sign_extend(relative));
    }
    let below = u32::MAX >> (24 - 8 * place);
    Some(sign_extend((relative ^ below).wrapping_sub(address)))
}

/// Addresses are counted modulo 4 GiB.
#[expect(clippy::cast_possible_truncation, reason = "that is meant")]
fn low(at: usize) -> u32 {
    at as u32
}

/// True where a byte of `value` is all zeros or all ones.
fn is_sign(value: u32, place: u32) -> bool {
    matches!((value >> (8 * place)) & 0xFF, 0 | 0xFF)
}

/// Bit 24 to the bits above.
fn sign_extend(value: u32) -> u32 {
    if value & (1 << 24) == 0 {
        value & 0x00FF_FFFF
    } else {
        value | 0xFF00_0000
    }
}
