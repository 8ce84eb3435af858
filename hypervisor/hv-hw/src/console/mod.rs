//! The console: everything that is printed, and what is typed.
//!
//! Printing is asynchronous: at 115200 baud a byte takes 87 µs, so text goes to a ring, and the UART's interrupt (or
//! any call here) moves it on 16 bytes at a time. With `sync_console`, and once the host is dying, each byte is waited
//! for. All text is kept in a second ring for those who ask later. What guests cause to be printed never waits for
//! room: it has a budget in bytes a second ([`hv_core::log_budget`]), and a line for which the ring has no room is left
//! out. Next: [`log`] for the macros that everybody uses.

mod history;
pub mod log;
mod ring;
mod serial;
mod vga;

use alloc::vec::Vec;
use core::fmt;

use hv_core::log_budget::{Bucket, Common};
use hv_core::options::Serial;

use crate::once_a_machine;
use crate::sync::{RankedLock, rank};
use history::History;
use ring::Ring;
use serial::SerialPort;
use vga::Screen;

/// Text waiting for the transmitter.
const TX_BYTES: usize = 16 << 10;
/// Bytes typed and not yet read.
const RX_BYTES: usize = 1 << 10;
/// The most that is received in one interrupt, so that a stuck UART cannot hold the host.
const RX_PER_INTERRUPT: usize = 64;
/// The most causes served in one interrupt, for the same reason.
const CAUSES_PER_INTERRUPT: usize = 16;

struct Console {
    port: Option<SerialPort>,
    screen: Screen,
    tx: Ring<[u8; TX_BYTES]>,
    rx: Ring<[u8; RX_BYTES]>,
    history: History,
    is_sync: bool,
    /// What guests may still have printed.
    guests: Common,
}

once_a_machine! {
    fn console() -> RankedLock<Console, { rank::CONSOLE }> = RankedLock::new(Console {
        port: None,
        screen: Screen::new(),
        tx: Ring::new(),
        rx: Ring::new(),
        history: History::new(),
        is_sync: false,
        guests: Common::new(),
    });
}

/// Prints to the serial port of `settings` from now on, or to none.
pub fn use_serial(settings: Option<&Serial>) {
    let mut console = console().lock();
    console.drain();
    console.port = settings.and_then(SerialPort::open);
    if let Some(baud) = console.port.as_ref().map(SerialPort::baud) {
        console.guests.set_baud(baud);
    }
}

/// True where a serial port answers.
#[must_use]
pub fn has_serial() -> bool {
    console().lock().port.is_some()
}

/// Prints to the VGA text screen too, from now on. Only where the loader left it in text mode.
pub fn use_vga() {
    console().lock().screen.switch_on();
}

/// Notes that the loader left the screen in text mode, so that a refusal can be shown there whatever the console is.
pub fn note_text_screen() {
    console().lock().screen.note_text_mode();
}

/// Prints what comes to the screen too, if it is in text mode and ours.
pub(crate) fn use_text_screen() {
    let mut console = console().lock();
    if console.screen.is_idle_text_screen() {
        console.screen.switch_on();
    }
}

/// Leaves the screen to dom0.
pub fn release_vga() {
    console().lock().screen.switch_off();
}

/// Waits for each byte from now on (`sync_console`), or no longer.
pub fn set_sync(is_sync: bool) {
    let mut console = console().lock();
    console.is_sync = is_sync;
    if is_sync {
        console.drain();
    }
}

/// Lets the port raise interrupts, once its line is routed; [`interrupt`] serves them.
pub fn enable_interrupt() {
    let mut console = console().lock();
    if let Some(port) = &mut console.port {
        port.enable_interrupt();
    }
    console.pump();
}

/// Serves the port's interrupt: takes what was typed, sends what waits. True where something was typed.
pub fn interrupt() -> bool {
    let mut console = console().lock();
    let mut typed = false;
    // The line is edge-triggered: a cause left behind would silence it for ever.
    for _ in 0..CAUSES_PER_INTERRUPT {
        if !console.port.as_mut().is_some_and(SerialPort::has_cause) {
            break;
        }
        typed |= console.receive();
        console.pump();
    }
    typed
}

/// Does what [`interrupt`] does where the port raises none: call it now and then.
pub fn poll() -> bool {
    let mut console = console().lock();
    let typed = console.receive();
    console.pump();
    typed
}

/// Takes what was typed; returns how many bytes.
pub fn read(to: &mut [u8]) -> usize {
    let mut console = console().lock();
    let mut count = 0;
    for (slot, byte) in to.iter_mut().zip(core::iter::from_fn(|| console.rx.pop())) {
        *slot = byte;
        count += 1;
    }
    count
}

/// Prints bytes as they are (dom0's console output), with `\n` sent as `\r\n`. They are not kept: dom0 keeps its own
/// log.
pub fn write(bytes: &[u8]) {
    let mut console = console().lock();
    console.print(bytes);
    console.pump();
}

/// Keeps as much text as `bytes` has room for from now on, where that is more than before. Once, when there is a heap.
pub fn grow_history(bytes: Vec<u8>) {
    // what is left over goes when the console is free again
    let _unused = console().lock().history.grow(bytes);
}

/// Where to start reading kept text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HistoryStart {
    /// At the oldest byte that is kept.
    Oldest,
    /// At the position of which this is the low half; at the oldest byte where that is gone, or to come.
    Index(u32),
}

/// The stream position at which reading starts.
#[must_use]
pub fn history_position(start: HistoryStart) -> u64 {
    let index = match start {
        HistoryStart::Oldest => None,
        HistoryStart::Index(index) => Some(index),
    };
    console().lock().history.position(index)
}

/// Copies kept text from stream position `position` on; returns the position of the first byte copied and how many.
pub fn copy_history(position: u64, to: &mut [u8]) -> (u64, usize) {
    console().lock().history.copy_from(position, to)
}

/// Forgets the kept text before stream position `position`.
pub fn forget_history(position: u64) {
    console().lock().history.forget_before(position);
}

/// Waits until everything printed has left, or the port proves dead.
pub fn flush() {
    console().lock().drain();
}

/// Prints `text` from a host that dies: waits for each byte, and does not wait for the console's lock, which the dying
/// code may hold.
pub(crate) fn write_dying(text: fmt::Arguments<'_>) {
    if let Some(mut console) = console().try_lock() {
        console.drain();
        console.is_sync = true;
        let _never_fails = fmt::write(&mut *console, text);
    } else if let Some(port) = SerialPort::open(&Serial::COM1) {
        let _never_fails = fmt::write(&mut Raw(port), text);
    }
}

/// Prints a formatted text in one piece.
pub(crate) fn write_fmt(text: fmt::Arguments<'_>) {
    let mut console = console().lock();
    let _never_fails = fmt::write(&mut *console, text);
    console.pump();
}

/// To whom a text that a guest caused is charged.
pub(crate) enum Charge<'a> {
    /// To a voice of the guest, and to all guests.
    Voice(&'a mut Bucket),
    /// To all guests: the registers of one that dies.
    Dump,
}

/// Prints a formatted text that a guest caused in one piece, or not at all: where there is no budget for it at
/// `now_ns`, or no room in the ring. With `sync_console` the transmitter is waited for, as the user asked. Returns
/// whether it was printed.
pub(crate) fn write_for_guest(text: fmt::Arguments<'_>, charge: Charge<'_>, now_ns: u64) -> bool {
    let mut size = Size(0);
    let _never_fails = fmt::write(&mut size, text);
    let mut console = console().lock();
    console.pump();
    if !console.has_room(size.0) {
        return false;
    }
    let bytes = u32::try_from(size.0).unwrap_or(u32::MAX);
    let is_admitted = match charge {
        Charge::Voice(voice) => console.guests.admit(voice, bytes, now_ns),
        Charge::Dump => console.guests.admit_dump(bytes, now_ns),
    };
    if is_admitted {
        let _never_fails = fmt::write(&mut *console, text);
        console.pump();
    }
    is_admitted
}

/// Counts the bytes that a text has on the line.
struct Size(usize);

impl fmt::Write for Size {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let line_ends = text.bytes().filter(|byte| *byte == b'\n').count();
        self.0 = self.0.saturating_add(text.len()).saturating_add(line_ends);
        Ok(())
    }
}

impl Console {
    /// True where `bytes` can be queued, or need not be.
    fn has_room(&self, bytes: usize) -> bool {
        self.port.is_none() || self.is_sync || bytes <= self.tx.room()
    }
    /// Prints and keeps `bytes`.
    fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.history.push(byte);
        }
        self.print(bytes);
    }
    fn print(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.screen.write(byte);
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
    }
    /// Queues `byte`; where the queue is full or the console synchronous, the transmitter is waited for.
    fn send(&mut self, byte: u8) {
        let Some(port) = &mut self.port else { return };
        if self.is_sync {
            port.send_waiting(byte);
        } else if !self.tx.push(byte) {
            if let Some(oldest) = self.tx.pop() {
                port.send_waiting(oldest);
            }
            self.tx.push(byte);
        }
    }
    /// Hands what waits to the transmitter, as much as it takes now.
    fn pump(&mut self) {
        let Some(port) = &mut self.port else { return };
        while !self.tx.is_empty() {
            let sent = port.send(self.tx.oldest(16));
            if sent == 0 {
                break;
            }
            self.tx.advance(sent);
        }
        port.want_tx_interrupt(!self.tx.is_empty());
    }
    /// Sends everything that waits.
    fn drain(&mut self) {
        let Some(port) = &mut self.port else { return };
        while let Some(byte) = self.tx.pop() {
            port.send_waiting(byte);
        }
    }
    /// Takes what the port received; a full ring drops the newest.
    fn receive(&mut self) -> bool {
        let Some(port) = &mut self.port else {
            return false;
        };
        let mut any = false;
        for byte in core::iter::from_fn(|| port.receive()).take(RX_PER_INTERRUPT) {
            any = true;
            self.rx.push(byte);
        }
        any
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

/// A port of one's own, while somebody else holds the console.
struct Raw(SerialPort);

impl fmt::Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.send_waiting(b'\r');
            }
            self.0.send_waiting(byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_counted_with_the_carriage_returns_that_the_port_gets() {
        let mut size = Size(0);
        fmt::write(&mut size, format_args!("{} lines\n{}\n", 2, "ok")).expect("a count takes all");
        assert_eq!(size.0, "2 lines\r\nok\r\n".len());
    }
}
