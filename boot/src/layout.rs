//! Where the linker put what: the symbols of the linker script, which every image that starts by `entry.S` has.
//!
//! UNSAFETY: declares symbols that the linker script defines.
#![expect(unsafe_code, reason = "symbols of the linker script")]

use hv_core::addr::{Hpa, Mfn, MfnRange};
use hv_hw::image::ImageLayout;

unsafe extern "C" {
    static text_start: u8;
    static text_end: u8;
    static rodata_start: u8;
    static rodata_end: u8;
    static data_start: u8;
    static data_end: u8;
}

/// Where the linker put what, in host physical memory.
pub(crate) fn image_layout() -> ImageLayout {
    ImageLayout {
        text: frames(&raw const text_start, &raw const text_end),
        rodata: frames(&raw const rodata_start, &raw const rodata_end),
        data: frames(&raw const data_start, &raw const data_end),
    }
}

/// The frames between two symbols of the image.
fn frames(start: *const u8, end: *const u8) -> MfnRange {
    let frame = |symbol: *const u8| {
        Mfn::containing(Hpa::new(symbol.addr() as u64 - ImageLayout::VIRTUAL_OFFSET))
    };
    MfnRange::new(frame(start), frame(end))
}
