//! The sleep types of soft-off (S5), out of the DSDT without an interpreter.
//!
//! Firmware writes `Name (\\_S5, Package () { a, b, … })` with constants, which in AML is a fixed pattern: NameOp, the
//! name, PackageOp, a length, a count, and the elements. Anything else is answered with "not known".
//! Source: ACPI 6.5, "\\_Sx (System States)", "AML Byte Stream Byte Values".

const NAME_OP: u8 = 0x08;
const PACKAGE_OP: u8 = 0x12;
const ZERO_OP: u8 = 0x00;
const ONE_OP: u8 = 0x01;
const BYTE_PREFIX: u8 = 0x0A;

/// SLP_TYPa and SLP_TYPb of S5 (0 to 7) in a DSDT's bytes; `None` where they are not stated as constants.
#[must_use]
pub fn soft_off(dsdt: &[u8]) -> Option<[u8; 2]> {
    let at = dsdt.windows(4).position(|window| window == b"_S5_")?;
    let before = dsdt.get(at.checked_sub(2)?..at)?;
    let is_name = before[1] == NAME_OP || *before == [NAME_OP, b'\\'];
    let [PACKAGE_OP, rest @ ..] = dsdt.get(at + 4..)? else {
        return None;
    };
    if !is_name {
        return None;
    }
    // the length's first byte says in bits 7:6 how many follow it; then comes the count
    let length_bytes = usize::from(*rest.first()? >> 6) + 1;
    let (first, rest) = constant(rest.get(length_bytes + 1..)?)?;
    let (second, _) = constant(rest)?;
    (first < 8 && second < 8).then_some([first, second])
}

fn constant(aml: &[u8]) -> Option<(u8, &[u8])> {
    match aml {
        [ZERO_OP, rest @ ..] => Some((0, rest)),
        [ONE_OP, rest @ ..] => Some((1, rest)),
        [BYTE_PREFIX, value, rest @ ..] => Some((*value, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn constants_of_the_usual_package_are_found() {
        let aml = b"xx\x08_S5_\x12\x0a\x04\x0a\x05\x0a\x07\x00\x00";
        assert_eq!(soft_off(aml), Some([5, 7]));
        let aml = b"\x08\\_S5_\x12\x06\x04\x00\x01\x00\x00";
        assert_eq!(soft_off(aml), Some([0, 1]));
    }

    #[test]
    fn what_is_no_package_of_constants_is_not_known() {
        assert_eq!(soft_off(b"\x08_S5_\x11\x06\x04\x00\x01"), None);
        assert_eq!(soft_off(b"\x08_S5_\x12\x06\x04ABCD"), None);
        assert_eq!(soft_off(b"_S5_\x12\x06\x04\x00\x00"), None);
        assert_eq!(soft_off(b""), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut aml = b"\x08_S5_\x12".to_vec();
            aml.extend(bytes);
            let _ = soft_off(&aml);
        }
    }
}
