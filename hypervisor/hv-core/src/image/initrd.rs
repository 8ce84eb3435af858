//! Whether a file can be an initrd, by how it begins.
//!
//! The rest is Linux's, which has checksums of its own and says what it cannot unpack.
//!
//! Source: Linux, "initramfs buffer format" (cpio), and lib/decompress.c.

/// What Linux unpacks begins with one of these.
const MAGICS: [&[u8]; 10] = [
    b"070701",            // cpio
    b"070702",            // cpio with checksums
    b"\x1f\x8b",          // gzip
    b"\x1f\x9e",          // gzip, old
    b"\x28\xb5\x2f\xfd",  // zstd
    b"\xfd7zXZ\0",        // xz
    b"\x02\x21\x4c\x18",  // lz4
    b"BZh",               // bzip2
    b"\x5d\x00\x00",      // lzma
    b"\x89LZO\0\r\n\x1a", // lzo
];

/// How many bytes [`is_known`] has to see.
pub const MAGIC_BYTES: usize = 8;

/// Tells whether Linux unpacks what begins with `start`, the first [`MAGIC_BYTES`] bytes of a file or all of it.
#[must_use]
pub fn is_known(start: &[u8]) -> bool {
    MAGICS.iter().any(|magic| start.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_what_they_begin_with() {
        assert!(MAGICS.iter().all(|magic| magic.len() <= MAGIC_BYTES));
        for initrd in [&b"07070100"[..], b"\x28\xb5\x2f\xfd\0\0\0\0", b"\x1f\x8b"] {
            assert!(is_known(initrd), "{initrd:x?}");
        }
        for other in [
            &b""[..],
            b"0",
            b"07070",
            b"This is ",
            &[0; 8],
            b"\x7fELF\0\0\0\0",
        ] {
            assert!(!is_known(other), "{other:x?}");
        }
    }
}
