//! The small languages inside option values: booleans, numbers, sizes.
//!
//! A size without a suffix counts in KiB: that is Xen's rule, and easy to trip over. Each function takes the whole
//! text and refuses what it does not use up.

/// Reads a boolean: `on`, `yes`, `true`, `enable`, `1` and their opposites (`xen/common/kernel.c` takes the same
/// words).
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "enable" | "1" => Some(true),
        "off" | "no" | "false" | "disable" | "0" => Some(false),
        _ => None,
    }
}

/// Reads an unsigned number: decimal, or hexadecimal after `0x`.
#[must_use]
pub fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // from_str_radix would take a sign
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// Reads a number that fits `T`.
#[must_use]
pub fn number_as<T: TryFrom<u64>>(text: &str) -> Option<T> {
    number(text).and_then(|n| T::try_from(n).ok())
}

/// Reads a size in bytes: a number with a suffix B, K, M, G or T of either case; KiB without one.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let last = text.chars().next_back()?;
    let (shift, has_suffix) = match last.to_ascii_uppercase() {
        // in a hexadecimal number b is a digit
        'B' if !text.starts_with("0x") => (0, true),
        'K' => (10, true),
        'M' => (20, true),
        'G' => (30, true),
        'T' => (40, true),
        _ => (10, false),
    };
    let digits = if has_suffix {
        text.get(..text.len() - 1)?
    } else {
        text
    };
    number(digits)?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn size_without_suffix_counts_in_kib() {
        assert_eq!(size("512"), Some(512 << 10));
        assert_eq!(size("1G"), Some(1 << 30));
        assert_eq!(size("1g"), Some(1 << 30));
        assert_eq!(size("4096B"), Some(4096));
        assert_eq!(size("0x10M"), Some(16 << 20));
        assert_eq!(size("0x1b"), Some(0x1b << 10));
    }

    #[test]
    fn size_refuses_what_is_no_number() {
        for text in ["", "G", "1X", "-1M", "+1M", "1 M", "20000000T", "1é"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (boolean(&text), number(&text), size(&text));
        }

        #[test]
        fn a_size_in_mib_is_read_back(mib in 0u64..1 << 40) {
            prop_assert_eq!(size(&std::format!("{mib}M")), Some(mib << 20));
        }
    }
}
