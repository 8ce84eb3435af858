//! What GRUB left: the multiboot2 information, and the options in it.

use alloc::vec;
use core::fmt;

use hv_core::addr::Hpa;
use hv_core::firmware::multiboot2::{self, BootInformation, Multiboot2Error};
use hv_core::options::{Options, Serial};
use hv_hw::{console, direct_map, info, shutdown, warn};

/// Why the boot information cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadBootInformation {
    /// It lies where no memory is.
    Unreachable(Hpa),
    Malformed(Multiboot2Error),
}

impl fmt::Display for BadBootInformation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(at) => write!(f, "GRUB's boot information at {at} is not in memory"),
            Self::Malformed(problem) => write!(f, "{problem}"),
        }
    }
}

/// Copies the information at `at` out of the memory that is reused soon, and reads it.
pub(super) fn read(at: Hpa) -> Result<BootInformation, BadBootInformation> {
    let mut first = [0; 8];
    let unreachable = BadBootInformation::Unreachable(at);
    direct_map::read(at, &mut first).map_err(|_| unreachable)?;
    let size = multiboot2::total_size(first).map_err(BadBootInformation::Malformed)?;
    let mut bytes = vec![0; size];
    direct_map::read(at, &mut bytes).map_err(|_| unreachable)?;
    multiboot2::parse(&bytes).map_err(BadBootInformation::Malformed)
}

/// Opens a console for a refusal before the options are known.
pub(super) fn open_default_console() {
    console::use_serial(Some(&Serial::COM1));
    console::use_vga();
}

/// Reads the options and sets up the console and the way to die by them.
pub(super) fn configure(loaded: &BootInformation) -> Options {
    let (options, warnings) = Options::parse(&loaded.command_line);
    console::log::set_levels(options.loglvl, options.guest_loglvl);
    let port = if options.console.com1 {
        Some(&options.com1)
    } else if options.console.com2 {
        Some(&options.com2)
    } else {
        None
    };
    console::use_serial(port);
    // Under EFI the screen is a frame buffer, and no text memory answers.
    if loaded.efi.system_table.is_none() {
        console::note_text_screen();
        if options.console.vga {
            console::use_vga();
        }
    }
    console::set_sync(options.sync_console);
    shutdown::set_noreboot(options.noreboot);
    info!(
        "Hematite {}, started by {}",
        env!("CARGO_PKG_VERSION"),
        loaded.loader
    );
    info!("command line: {}", loaded.command_line);
    for warning in warnings {
        warn!("{warning}");
    }
    if port.is_some() && !console::has_serial() {
        warn!("no serial port answers; the console is the screen alone");
    }
    options
}
