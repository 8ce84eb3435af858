//! Version 1 entries: how a use of an entry is agreed on with a guest that may change it at any moment.
//!
//! An entry is `flags`, `domid` (together one 32-bit word) and `frame`. The granter fills it, sets the type last, and
//! ends the grant by swapping the flags for 0 while neither "reading" nor "writing" is set. The hypervisor sets those
//! with a swap of the whole word that it has checked: so either the granter sees the use, or the use sees that the
//! grant has ended.
//! Source: `public/grant_table.h`, the comments on `grant_entry_v1`.

use guest_abi::grant_table as abi;

use super::{GrantError, Want};
use crate::addr::{Gfn, PAGE_BYTES};
use crate::domid::DomId;
use crate::mem::SharedWords;

/// Bytes of an entry.
const ENTRY_BYTES: usize = 8;
const FRAME_OFFSET: usize = 4;
/// Entries in one shared frame.
pub(super) const ENTRIES_PER_FRAME: usize = PAGE_BYTES / ENTRY_BYTES;

/// How often an entry may change under our eyes before its guest is told off.
const TRIES: usize = 5;

/// Marks the entry at `index` as used for `want` by `user`, and reads which guest frame it grants.
///
/// # Errors
/// [`GrantError::BadRef`] where it does not grant that to `user`, [`GrantError::General`] where it keeps changing.
pub(super) fn begin_use(
    frame: &impl SharedWords,
    index: usize,
    user: DomId,
    want: Want,
) -> Result<Gfn, GrantError> {
    let offset = index * ENTRY_BYTES;
    let mut word = frame.load_u32(offset);
    for _ in 0..TRIES {
        if !grants(word, user, want) {
            return Err(GrantError::BadRef);
        }
        match frame.compare_exchange_u32(offset, word, word | use_flags(want)) {
            // Only now is the frame ours to read: the granter does not change it while the entry is in use.
            Ok(_) => return Ok(Gfn::new(u64::from(frame.load_u32(offset + FRAME_OFFSET)))),
            Err(changed) => word = changed,
        }
    }
    Err(GrantError::General)
}

/// Clears the marks that no use needs any longer.
pub(super) fn end_use(frame: &impl SharedWords, index: usize, left: Option<Want>) {
    let kept = left.map_or(0, use_flags);
    let cleared = use_flags(Want::Write) & !kept;
    frame.fetch_and_u32(index * ENTRY_BYTES, !cleared);
}

/// True where an entry's flags and domid allow it.
fn grants(word: u32, user: DomId, want: Want) -> bool {
    let [flags_low, flags_high, domid_low, domid_high] = word.to_le_bytes();
    let flags = u16::from_le_bytes([flags_low, flags_high]);
    let domid = u16::from_le_bytes([domid_low, domid_high]);
    flags & abi::GTF_type_mask == abi::GTF_permit_access
        && domid == user.get()
        && (want == Want::Read || flags & abi::GTF_readonly == 0)
}

fn use_flags(want: Want) -> u32 {
    u32::from(match want {
        Want::Read => abi::GTF_reading,
        Want::Write => abi::GTF_reading | abi::GTF_writing,
    })
}
