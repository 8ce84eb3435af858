//! Who made the CPU, by leaf 0: whose leaves and MSRs it has.

use core::fmt;

use super::CpuidRegs;

/// Whose architecture a CPU follows where the two differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Vendor {
    /// Intel's, which those who are not known follow too.
    #[default]
    Intel,
    /// AMD's, which Hygon's follow.
    Amd,
}

impl Vendor {
    /// Whose CPU it is that answers leaf 0 so.
    #[must_use]
    pub fn of(leaf0: CpuidRegs) -> Self {
        match &VendorName::of(leaf0).0 {
            b"AuthenticAMD" | b"HygonGenuine" => Self::Amd,
            _ => Self::Intel,
        }
    }
}

/// Family and model of a signature, EAX of leaf 1, as AMD counts them.
#[must_use]
pub(crate) fn family_and_model(signature: u32) -> (u32, u32) {
    let base = signature >> 8 & 0xf;
    let (family, model) = (signature >> 20 & 0xff, signature >> 16 & 0xf);
    if base == 0xf {
        (base + family, model << 4 | signature >> 4 & 0xf)
    } else {
        (base, signature >> 4 & 0xf)
    }
}

/// The twelve characters of leaf 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VendorName([u8; 12]);

impl VendorName {
    pub(super) fn of(leaf0: CpuidRegs) -> Self {
        let mut name = [0; 12];
        let text = [leaf0.ebx, leaf0.edx, leaf0.ecx].map(u32::to_le_bytes);
        for (to, from) in name.iter_mut().zip(text.as_flattened()) {
            *to = *from;
        }
        Self(name)
    }
}

impl fmt::Display for VendorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}
