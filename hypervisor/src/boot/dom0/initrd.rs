//! dom0's initrd: whether it is whole, before a kernel starts that would look for its root file system in vain.

use hv_core::addr::Hpa;
use hv_core::firmware::multiboot2::Module;
use hv_core::image::initrd::{self, Bytes, InitrdError};
use hv_hw::direct_map;

/// The bytes of a module, where GRUB put it.
struct InRam {
    start: Hpa,
    len: u64,
}

impl Bytes for InRam {
    fn len(&self) -> u64 {
        self.len
    }
    fn read(&self, offset: u64, to: &mut [u8]) {
        // what is not in RAM cannot be a module; zeros are no archive
        if direct_map::read(self.start + offset, to).is_err() {
            to.fill(0);
        }
    }
}

/// Checks the structure of the initrd that is `module`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(module: &Module) -> Result<(), InitrdError> {
    initrd::check(&InRam {
        start: module.start,
        len: module.end.as_u64().saturating_sub(module.start.as_u64()),
    })
}
