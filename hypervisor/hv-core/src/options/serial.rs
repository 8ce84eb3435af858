//! `com1` and `com2`: how a serial port is set up.
//!
//! `<baud>[/<base-baud>][,<DPS>[,<io-base>[,<irq>]]]`: DPS is data bits, parity and stop bits, as in `8n1`. A baud of
//! `auto` keeps the rate that the firmware set. An empty part keeps its default.

use super::value;

/// A serial port's line settings and place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Serial {
    /// Bits a second; `None` keeps what the firmware set.
    pub baud: Option<u32>,
    /// The UART's clock divided by 16, in Hz: the highest rate it can do.
    pub base_baud: u32,
    /// Data bits, 5 to 8.
    pub data_bits: u8,
    pub parity: Parity,
    /// Stop bits, 1 or 2.
    pub stop_bits: u8,
    /// The first of its 8 I/O ports.
    pub io_base: u16,
    /// Its ISA interrupt; 0 polls.
    pub irq: u8,
}

/// The parity bit of a serial line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parity {
    None,
    /// Makes the count of ones odd.
    Odd,
    /// Makes the count of ones even.
    Even,
    Mark,
    Space,
}

impl Serial {
    /// The PC's first port at 115200 8n1.
    pub const COM1: Self = Self {
        baud: Some(115_200),
        base_baud: 115_200,
        data_bits: 8,
        parity: Parity::None,
        stop_bits: 1,
        io_base: 0x3f8,
        irq: 4,
    };
    /// The PC's second port at 115200 8n1.
    pub const COM2: Self = Self {
        io_base: 0x2f8,
        irq: 3,
        ..Self::COM1
    };

    /// The divisor to program for the rate, or `None` where the firmware's stays.
    #[must_use]
    pub fn divisor(&self) -> Option<u16> {
        let baud = self.baud?;
        u16::try_from(self.base_baud.checked_div(baud)?.max(1)).ok()
    }

    /// Reads an option's value over the settings there are.
    ///
    /// # Errors
    /// Which part is wrong.
    pub fn parse(mut self, text: &str) -> Result<Self, &'static str> {
        let mut parts = text.split(',');
        self.take_baud(parts.next().unwrap_or_default())?;
        if let Some(dps) = parts.next().filter(|p| !p.is_empty()) {
            self.take_line(dps)
                .ok_or("has line settings that are not like 8n1")?;
        }
        if let Some(base) = parts.next().filter(|p| !p.is_empty()) {
            self.io_base = value::number_as(base)
                .filter(|base| (1..=0xfff8).contains(base))
                .ok_or(
                    "has no I/O port such as 0x3f8 (memory-mapped and PCI ports are not supported)",
                )?;
        }
        if let Some(irq) = parts.next().filter(|p| !p.is_empty()) {
            self.irq = value::number_as(irq)
                .filter(|&irq: &u8| irq < 16)
                .ok_or("has no ISA interrupt below 16")?;
        }
        match parts.next() {
            Some(_) => Err("has more parts than rate, line, I/O port and interrupt"),
            None => Ok(self),
        }
    }

    fn take_baud(&mut self, text: &str) -> Result<(), &'static str> {
        const WRONG: &str = "has no rate such as 115200 or auto";
        let (baud, base) = match text.split_once('/') {
            Some((baud, base)) => (baud, Some(base)),
            None => (text, None),
        };
        if let Some(base) = base {
            self.base_baud = value::number_as(base)
                .filter(|&b: &u32| b > 0)
                .ok_or(WRONG)?;
        }
        self.baud = match baud {
            "" => self.baud,
            "auto" => None,
            _ => Some(
                value::number_as(baud)
                    .filter(|b| (1..=self.base_baud).contains(b))
                    .ok_or(WRONG)?,
            ),
        };
        if self.baud.is_some() && self.divisor().is_none() {
            return Err("has a rate too low for the port's clock");
        }
        Ok(())
    }

    fn take_line(&mut self, text: &str) -> Option<()> {
        let &[data, parity, stop] = text.as_bytes() else {
            return None;
        };
        self.data_bits = matches!(data, b'5'..=b'8').then(|| data - b'0')?;
        self.stop_bits = matches!(stop, b'1' | b'2').then(|| stop - b'0')?;
        self.parity = match parity {
            b'n' => Parity::None,
            b'o' => Parity::Odd,
            b'e' => Parity::Even,
            b'm' => Parity::Mark,
            b's' => Parity::Space,
            _ => return None,
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_left_out_keep_their_default() {
        let port = Serial::COM1.parse("115200").unwrap();
        assert_eq!(port, Serial::COM1);
        let port = Serial::COM1.parse("9600,7e2,0x2e8,5").unwrap();
        assert_eq!(
            (port.baud, port.data_bits, port.stop_bits),
            (Some(9600), 7, 2)
        );
        assert_eq!(
            (port.parity, port.io_base, port.irq),
            (Parity::Even, 0x2e8, 5)
        );
        assert_eq!(port.divisor(), Some(12));
        let port = Serial::COM2.parse("57600/1843200,,,0").unwrap();
        assert_eq!(
            (port.base_baud, port.io_base, port.irq),
            (1_843_200, 0x2f8, 0)
        );
    }

    #[test]
    fn auto_keeps_the_rate_of_the_firmware() {
        assert_eq!(Serial::COM1.parse("auto").unwrap().divisor(), None);
    }

    #[test]
    fn malformed_ports_are_refused() {
        for text in [
            "x",
            "0",
            "1",
            "230400",
            "115200,9n1",
            "115200,8n1,pci",
            "115200,8n1,0x3f8,16",
            "115200,8n1,0x3f8,4,1",
        ] {
            assert!(Serial::COM1.parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-z,/]*") {
            let _ = Serial::COM1.parse(&text);
        }
    }
}
