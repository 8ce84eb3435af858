//! The VGA text screen, 80 by 25, for boot messages and refusals where no serial cable is plugged in.
//!
//! UNSAFETY: the screen is device memory at a fixed address.
#![expect(unsafe_code)]

use hv_core::addr::Hpa;

use crate::direct_map;

const SCREEN: Hpa = Hpa::new(0xb_8000);
const COLUMNS: usize = 80;
const ROWS: usize = 25;
/// A blank, light grey on black.
const BLANK: u16 = 0x0720;

/// A cursor on the screen; text appears only while it is switched on.
pub(super) struct Screen {
    is_on: bool,
    /// The loader left it in text mode, and nobody has got it since.
    is_text: bool,
    column: usize,
    row: usize,
}

impl Screen {
    pub(super) const fn new() -> Self {
        Self {
            is_on: false,
            is_text: false,
            column: 0,
            row: 0,
        }
    }
    /// Starts at the top of an empty screen.
    pub(super) fn switch_on(&mut self) {
        self.is_on = true;
        (self.column, self.row) = (0, 0);
        for row in 0..ROWS {
            clear_row(row);
        }
    }
    pub(super) fn note_text_mode(&mut self) {
        self.is_text = true;
    }
    /// True where text could be shown and is not.
    pub(super) fn is_idle_text_screen(&self) -> bool {
        self.is_text && !self.is_on
    }
    /// Leaves the screen as it is, to its next owner.
    pub(super) fn switch_off(&mut self) {
        self.is_on = false;
        self.is_text = false;
    }
    pub(super) fn write(&mut self, byte: u8) {
        if !self.is_on {
            return;
        }
        match byte {
            b'\n' => self.next_row(),
            b'\r' => self.column = 0,
            _ => {
                if self.column == COLUMNS {
                    self.next_row();
                }
                let shown = if byte.is_ascii_graphic() { byte } else { b' ' };
                put(
                    self.row * COLUMNS + self.column,
                    BLANK & 0xff00 | u16::from(shown),
                );
                self.column += 1;
            }
        }
    }
    fn next_row(&mut self) {
        self.column = 0;
        if self.row + 1 < ROWS {
            self.row += 1;
            return;
        }
        for cell in 0..(ROWS - 1) * COLUMNS {
            put(cell, get(cell + COLUMNS));
        }
        clear_row(ROWS - 1);
    }
}

fn clear_row(row: usize) {
    for column in 0..COLUMNS {
        put(row * COLUMNS + column, BLANK);
    }
}

/// The address of cell `cell`, below `ROWS * COLUMNS`.
fn at(cell: usize) -> *mut u16 {
    assert!(cell < ROWS * COLUMNS, "cell {cell} of the screen");
    direct_map::hva(SCREEN).cast::<u16>().wrapping_add(cell)
}

fn put(cell: usize, value: u16) {
    // SAFETY: the first MiB is always in the direct map, and the screen's cells (checked by `at`) are no Rust object.
    unsafe { at(cell).write_volatile(value) };
}

fn get(cell: usize) -> u16 {
    // SAFETY: as for `put`.
    unsafe { at(cell).read_volatile() }
}
