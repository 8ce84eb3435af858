//! The two PICs: moved away from the exceptions' vectors and silenced permanently; the I/O APICs do their work.

use crate::irq::vectors;
use crate::port;

const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xa0;
/// Begin initialisation, with four words.
const ICW1: u8 = 0x11;
/// 8086 mode.
const ICW4: u8 = 0x01;

/// Remaps and masks both (Intel 8259A, "Programming").
pub(super) fn silence() {
    let base = *vectors::PIC.start();
    for (chip, vector, wiring) in [(MASTER, base, 4), (SLAVE, base + 8, 2)] {
        port::write8(chip, ICW1);
        port::write8(chip + 1, vector);
        port::write8(chip + 1, wiring);
        port::write8(chip + 1, ICW4);
        port::write8(chip + 1, 0xff);
    }
}
