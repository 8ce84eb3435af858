//! The serial port: the `uart_16550` driver with every wait bounded.
//!
//! UNSAFETY: a port driver is made from a raw I/O port number.
#![expect(unsafe_code)]

use hv_core::options::{Parity, Serial};
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{IER, Parity as LineParity, WordLength};
use uart_16550::{BaudRate, Config, Uart16550};

/// How often the transmitter is asked before a byte is given up: 115200 baud needs some thousand times, 1200 baud a
/// hundred times as many; a UART that is not there must not hang the host.
const POLLS_PER_BYTE: u32 = 1_000_000;

/// A UART that answered.
pub(super) struct SerialPort {
    uart: Uart16550<PioBackend>,
    /// True while the interrupt for an empty transmitter is enabled.
    wants_tx_interrupt: bool,
    /// True once interrupts are used at all.
    has_interrupt: bool,
    baud: u32,
}

impl SerialPort {
    /// Sets the port up, or `None` where no UART answers or the settings are none that it has.
    pub(super) fn open(settings: &Serial) -> Option<Self> {
        // SAFETY: the port numbers of a PC's UART by the user's option; the hypervisor keeps them from dom0.
        let port = unsafe { Uart16550::new_port(settings.io_base) };
        let mut uart = port.ok()?;
        let baud = settings
            .baud
            .unwrap_or_else(|| firmware_baud(&mut uart, settings.base_baud));
        uart.init(config(settings, baud)).ok()?;
        Some(Self {
            uart,
            wants_tx_interrupt: false,
            has_interrupt: false,
            baud,
        })
    }
    /// How fast it sends, in bits a second.
    pub(super) const fn baud(&self) -> u32 {
        self.baud
    }
    /// From now on the port raises its interrupt for received bytes, and for an empty transmitter when asked.
    pub(super) fn enable_interrupt(&mut self) {
        self.has_interrupt = true;
        self.uart.enable_interrupts(IER::DATA_READY);
    }
    /// Asks for an interrupt once the transmitter is empty, or no longer.
    pub(super) fn want_tx_interrupt(&mut self, wanted: bool) {
        if !self.has_interrupt || self.wants_tx_interrupt == wanted {
            return;
        }
        self.wants_tx_interrupt = wanted;
        if wanted {
            self.uart.enable_interrupts(IER::THR_EMPTY);
        } else {
            self.uart.disable_interrupts(IER::THR_EMPTY);
        }
    }
    /// True while a cause of an interrupt is left. Reading it clears the cause "transmitter empty"; the others go with
    /// the data.
    pub(super) fn has_cause(&mut self) -> bool {
        self.uart.isr().has_pending_interrupt()
    }
    /// Hands over as many of `bytes` as the transmitter takes at once: 0 while it is busy, up to 16 with a FIFO.
    pub(super) fn send(&mut self, bytes: &[u8]) -> usize {
        self.uart.send_bytes(bytes)
    }
    /// Sends `byte`, waiting a bounded time for the transmitter.
    pub(super) fn send_waiting(&mut self, byte: u8) {
        for _ in 0..POLLS_PER_BYTE {
            if self.uart.try_send_byte(byte).is_ok() {
                return;
            }
            core::hint::spin_loop();
        }
    }
    /// A received byte, where there is one.
    pub(super) fn receive(&mut self) -> Option<u8> {
        self.uart.try_receive_byte().ok()
    }
}

/// The rate that the firmware left in the divisor latch (`auto`), or the highest where it left none.
fn firmware_baud(uart: &mut Uart16550<PioBackend>, base_baud: u32) -> u32 {
    let (low, high) = uart.dll_dlm();
    let divisor = u32::from(u16::from_le_bytes([low, high]));
    base_baud.checked_div(divisor).unwrap_or(base_baud)
}

/// The driver's configuration for the options' settings at `baud`.
fn config(settings: &Serial, baud: u32) -> Config {
    Config {
        frequency: settings.base_baud.saturating_mul(16),
        baud_rate: BaudRate::from_integer(baud),
        data_bits: match settings.data_bits {
            5 => WordLength::FiveBits,
            6 => WordLength::SixBits,
            7 => WordLength::SevenBits,
            _ => WordLength::EightBits,
        },
        extra_stop_bits: settings.stop_bits > 1,
        parity: match settings.parity {
            Parity::None => LineParity::Disabled,
            Parity::Odd => LineParity::Odd,
            Parity::Even => LineParity::Even,
            Parity::Mark => LineParity::Forced1,
            Parity::Space => LineParity::Forced0,
        },
        ..Config::DEFAULT
    }
}
