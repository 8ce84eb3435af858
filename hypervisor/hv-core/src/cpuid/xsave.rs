//! Extended state: which XCR0 a guest may load, and the sizes that leaf 0xD reports for it.
//!
//! Source: Intel SDM vol. 1, "Managing State Using the XSAVE Feature Set"; vol. 2D, "XSETBV".

use super::{CpuidRegs, HostCpuid, features};

/// x87: always set.
pub(super) const X87: u64 = 1 << 0;
/// XMM registers.
pub(super) const SSE: u64 = 1 << 1;
/// Upper halves of the YMM registers.
pub(super) const AVX: u64 = 1 << 2;
/// Opmask, ZMM_Hi256, Hi16_ZMM: one cannot be without the others.
pub(super) const AVX512: u64 = 0b111 << 5;
/// Protection keys of user pages.
pub(super) const PKRU: u64 = 1 << 9;

/// Components with a leaf of their own are numbered from 2 to below this: nothing above PKRU is ever shown.
const COMPONENTS: usize = 10;
/// The legacy region and the header, before any component.
const HEADER_END: u32 = 576;

/// Leaf 0xD of one domain.
#[derive(Clone, Debug)]
pub(super) struct Xsave {
    allowed: u64,
    /// Bytes with all of `allowed`.
    largest: u32,
    extensions: u32,
    /// EAX size, EBX offset, ECX flags of each component; zeros where not allowed.
    components: [CpuidRegs; COMPONENTS],
}

impl Xsave {
    /// No XSAVE at all.
    pub(super) const NONE: Self = Self {
        allowed: 0,
        largest: 0,
        extensions: 0,
        components: [CpuidRegs {
            eax: 0,
            ebx: 0,
            ecx: 0,
            edx: 0,
        }; COMPONENTS],
    };

    /// What the host has of the components in `switched`, and of the instructions in `extensions` (leaf 0xD, subleaf 1,
    /// EAX).
    pub(super) fn build(
        host: &HostCpuid,
        switched: u64,
        with_xsaves: bool,
        extensions: u32,
    ) -> Self {
        let main = host.get(0xd, 0);
        let host_xcr0 = u64::from(main.edx) << 32 | u64::from(main.eax);
        let allowed = complete(host_xcr0 & switched);
        let mut xsave = Self {
            allowed,
            ..Self::NONE
        };
        for (n, component) in (0u32..).zip(&mut xsave.components).skip(2) {
            if allowed & (1 << n) != 0 {
                *component = host.get(0xd, n);
                component.edx = 0;
            }
        }
        let mut mask = features::XSAVE_EXTENSIONS & extensions;
        if with_xsaves {
            mask |= features::XSAVES & extensions;
        }
        xsave.extensions = host.get(0xd, 1).eax & mask;
        xsave.largest = xsave.standard_size(allowed);
        xsave
    }

    /// XCR0 bits that the guest may set.
    pub(super) fn allowed(&self) -> u64 {
        self.allowed
    }
    /// True where XSAVES and IA32_XSS exist.
    pub(super) fn has_xsaves(&self) -> bool {
        self.extensions & features::XSAVES != 0
    }
    /// True where XSETBV takes `value`.
    pub(super) fn is_valid(&self, value: u64) -> bool {
        value & X87 != 0 && value & !self.allowed == 0 && complete(value) == value
    }

    #[inline]
    pub(super) fn leaf(&self, subleaf: u32, xcr0: u64, xss: u64) -> CpuidRegs {
        match subleaf {
            _ if self.allowed == 0 => CpuidRegs::default(),
            0 => CpuidRegs {
                eax: low(self.allowed),
                ebx: self.standard_size(xcr0),
                ecx: self.largest,
                edx: 0,
            },
            1 => CpuidRegs {
                eax: self.extensions,
                ebx: self.compacted_size(xcr0 | xss),
                ecx: 0,
                edx: 0,
            },
            n => usize::try_from(n)
                .ok()
                .and_then(|n| self.components.get(n))
                .copied()
                .unwrap_or_default(),
        }
    }

    /// Bytes of an XSAVE area with the components of `xcr0` at their fixed places.
    fn standard_size(&self, xcr0: u64) -> u32 {
        let mut end = HEADER_END;
        for component in self.each(xcr0) {
            end = end.max(component.ebx.saturating_add(component.eax));
        }
        end
    }

    /// Bytes of an XSAVEC area: the components of `states` one after the other.
    fn compacted_size(&self, states: u64) -> u32 {
        if self.extensions & (features::XSAVES | 1 << 1) == 0 {
            return 0;
        }
        let mut end = HEADER_END;
        for component in self.each(states) {
            if component.ecx & (1 << 1) != 0 {
                end = end.saturating_add(63) & !63;
            }
            end = end.saturating_add(component.eax);
        }
        end
    }

    /// The components of `states` that have a leaf, in ascending order: a step for each, not for each possible one.
    #[inline]
    fn each(&self, states: u64) -> impl Iterator<Item = &CpuidRegs> {
        let mut left = states & !(X87 | SSE);
        core::iter::from_fn(move || {
            let n = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            self.components.get(n as usize)
        })
    }
}

/// `xcr0` less the components that miss another they need, and less those that are never shown.
fn complete(mut xcr0: u64) -> u64 {
    xcr0 &= X87 | SSE | AVX | AVX512 | PKRU;
    if xcr0 & SSE == 0 {
        xcr0 &= !AVX;
    }
    if xcr0 & AVX == 0 || xcr0 & AVX512 != AVX512 {
        xcr0 &= !AVX512;
    }
    xcr0
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is asked for")]
fn low(word: u64) -> u32 {
    word as u32
}
