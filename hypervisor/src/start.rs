//! From the boot code to dom0: a checklist.

use hv_core::addr::Hpa;
use hv_hw::image::ImageLayout;

/// What the boot code knows.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// Where the loader left the multiboot2 information.
    pub multiboot: Hpa,
    /// Where the image lies.
    pub image: ImageLayout,
    /// The TSC when Rust was entered.
    pub entry_tsc: u64,
}

/// Brings the machine up and runs dom0.
pub fn start(boot: BootInfo) -> ! {
    let mut irqs_off = hv_hw::cpu::init_boot_cpu();
    hv_hw::direct_map::begin(&boot.image);
    hv_hw::panic::set_image(&boot.image);
    hv_hw::time::set_start(boot.entry_tsc);
    hv_hw::console::use_serial(Some(&hv_core::options::Serial::COM1));
    hv_hw::info!("Hematite {}", env!("CARGO_PKG_VERSION"));
    hv_hw::console::flush();
    loop {
        let _vector = hv_hw::irq::wait_for_interrupt(&mut irqs_off);
    }
}
