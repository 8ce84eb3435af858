//! Values as text: what is not printable ASCII is escaped, as Xen's clients do.

/// Returns bytes as text; what is no UTF-8 is replaced.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Escapes a value for printing.
pub(super) fn escape(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    for &byte in value {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(byte)),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            0..=7 => out.push_str(&format!("\\{byte:03o}")),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

/// Undoes [`escape`]; a backslash before anything else stands for that.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&kind, after)) = rest.split_first() else {
            break;
        };
        let (byte, after) = match kind {
            b't' => (b'\t', after),
            b'n' => (b'\n', after),
            b'r' => (b'\r', after),
            b'x' => digits(after, 16, 2, b'x'),
            b'0'..=b'7' => digits(rest, 8, 3, kind),
            other => (other, after),
        };
        out.push(byte);
        rest = after;
    }
    out
}

/// Reads at most `most` digits; without any, the value is `otherwise`.
fn digits(text: &[u8], radix: u32, most: usize, otherwise: u8) -> (u8, &[u8]) {
    let is_digit = |byte: &&u8| char::from(**byte).is_digit(radix);
    let count = text.iter().take(most).take_while(is_digit).count();
    let (found, rest) = text.split_at_checked(count).unwrap_or((text, &[]));
    let number = str::from_utf8(found)
        .ok()
        .and_then(|found| u32::from_str_radix(found, radix).ok());
    let byte = number.map_or(otherwise, |number| number.to_le_bytes()[0]);
    (byte, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_xen_ones() {
        assert_eq!(
            escape(b"a\tb\n\r\\\x01\x1f\x7f\xff\0"),
            "a\\tb\\n\\r\\\\\\001\\x1f\\x7f\\xff\\000"
        );
        assert_eq!(unescape(b"\\x4\\x41\\101\\q\\"), b"\x04AAq");
    }

    proptest! {
        #[test]
        fn what_is_escaped_comes_back(value in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unescape(escape(&value).as_bytes()), value);
        }
    }
}
