//! Text out: through the hypervisor's console where it lets us (dom0), else byte by byte to port 0xE9.

// UNSAFETY: hands a buffer to a hypercall.
#![expect(unsafe_code, reason = "hands a buffer to a hypercall")]

use crate::{hypercall, insn};
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use guest_abi::xen::{__HYPERVISOR_console_io, CONSOLEIO_write, XEN_HVM_DEBUGCONS_IOPORT};

static BY_HYPERCALL: AtomicBool = AtomicBool::new(false);

/// Finds out which way text goes.
pub fn init() {
    BY_HYPERCALL.store(hypercall::present(), Relaxed);
}

/// Writes bytes.
pub fn write(bytes: &[u8]) {
    if BY_HYPERCALL.load(Relaxed) {
        let args = [
            u64::from(CONSOLEIO_write),
            bytes.len() as u64,
            bytes.as_ptr() as u64,
            0,
            0,
        ];
        // SAFETY: the call reads `bytes`.
        if unsafe { hypercall::raw(__HYPERVISOR_console_io, args) } >= 0 {
            return;
        }
        BY_HYPERCALL.store(false, Relaxed);
    }
    for &byte in bytes {
        insn::outb(XEN_HVM_DEBUGCONS_IOPORT, byte);
    }
}

/// A line that is written whole, so that it costs one call and nothing comes between.
struct Line {
    text: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for &byte in s.as_bytes() {
            if self.len == self.text.len() {
                self.flush();
            }
            self.text[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

impl Line {
    fn flush(&mut self) {
        write(&self.text[..self.len]);
        self.len = 0;
    }
}

/// Writes formatted text and a line end.
pub fn print_line(args: core::fmt::Arguments<'_>) {
    let mut line = Line {
        text: [0; 256],
        len: 0,
    };
    let _ = line.write_fmt(args);
    let _ = line.write_str("\n");
    line.flush();
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::print_line(format_args!($($arg)*)) };
}
