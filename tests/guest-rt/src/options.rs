//! The command line: words of `key=value`.

// UNSAFETY: reads the loader's text.
#![expect(unsafe_code, reason = "reads the loader's text")]

use crate::entry;
use core::ffi::CStr;

/// The whole command line, empty where there is none.
#[must_use]
pub fn command_line() -> &'static str {
    let address = entry::start_info().cmdline_paddr;
    if address == 0 {
        return "";
    }
    // SAFETY: the loader's text ends with a NUL, and nothing changes it.
    unsafe { CStr::from_ptr(address as usize as *const core::ffi::c_char) }
        .to_str()
        .unwrap_or("")
}

/// The value of the first `key=value`.
#[must_use]
pub fn value(key: &str) -> Option<&'static str> {
    command_line()
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// The same as a number, decimal or with 0x.
#[must_use]
pub fn number(key: &str) -> Option<u64> {
    let text = value(key)?;
    text.strip_prefix("0x").map_or_else(
        || text.parse().ok(),
        |hex| u64::from_str_radix(hex, 16).ok(),
    )
}
