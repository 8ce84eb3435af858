//! The hypercall page: 32 bytes a hypercall, for guests that do not write the CPU's instruction themselves.
//!
//! Source: Xen's `public/arch-x86/cpuid.h`, leaf 2; stub n is `mov $n, %eax`, the instruction, `ret`.

use hv_core::addr::{Gpa, PAGE_BYTES};
use hv_core::mem::GuestMem;

use crate::domain::Domain;
use crate::guest_mem::{DomainMemory, SoftwareTlb};
use crate::machine::host::host;

const STUB_BYTES: usize = 32;
const IRET: usize = 23;

/// Fills the guest's page at `page`; `None` where it has no RAM there.
pub(crate) fn fill(domain: &Domain, page: Gpa) -> Option<()> {
    DomainMemory::lock(domain, &SoftwareTlb::new(domain.shared_info))
        .write(page, &contents(host().features.hypercall))
        .ok()
}

fn contents([a, b, c]: [u8; 3]) -> [u8; PAGE_BYTES] {
    let mut page = [0xCC; PAGE_BYTES];
    for (number, stub) in page.chunks_exact_mut(STUB_BYTES).enumerate() {
        // iret is for PV guests: ud2
        let code: &[u8] = if number == IRET {
            &[0x0F, 0x0B]
        } else {
            let [low, high, ..] = number.to_le_bytes();
            &[0xB8, low, high, 0, 0, a, b, c, 0xC3]
        };
        for (to, from) in stub.iter_mut().zip(code) {
            *to = *from;
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stub_moves_its_number_to_eax_and_calls() {
        let page = contents([0x0F, 0x01, 0xD9]);
        assert_eq!(
            page[17 * 32..][..9],
            [0xB8, 17, 0, 0, 0, 0x0F, 0x01, 0xD9, 0xC3]
        );
        assert_eq!(page[23 * 32..][..2], [0x0F, 0x0B]);
    }
}
