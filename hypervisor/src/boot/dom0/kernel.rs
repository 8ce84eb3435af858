//! dom0's kernel: unpacked, and put where it was linked to.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use hv_core::addr::{Gpa, Hpa, MfnRange};
use hv_core::firmware::multiboot2::Module;
use hv_core::frame::OwnedFrames;
use hv_core::image::KernelFile;
use hv_core::image::dom0_memory::place_kernel;
use hv_core::image::elf::Kernel;
use hv_core::image::payload::Payload;
use hv_hw::{direct_map, heap, info};

use crate::boot::dom0::memory::taken;
use crate::boot::{BootedMachine, milestone};
use crate::machine::memory;

/// A kernel in its place.
pub(super) struct Loaded {
    /// Where it is entered.
    pub(super) entry: Gpa,
    /// All that it takes, bss included.
    pub(super) extent: Range<Gpa>,
    pub(super) frames: OwnedFrames,
}

/// Loads the kernel whose file is in `module`. Meanwhile the heap has its temporary region too, whose frames are free
/// afterwards.
///
/// # Errors
/// What is wrong with the file, or with the place that it needs.
pub(super) fn load(machine: &BootedMachine, module: &Module) -> Result<Loaded, String> {
    let [_, own] = machine.hypervisor;
    heap::add_temporary(machine.temporary_heap, own);
    let loaded = load_from(machine, module);
    assert!(heap::take_back(own), "nothing of the kernel's file is kept");
    memory::free()
        .lock()
        .add_free(machine.temporary_heap)
        .expect("what was set aside at boot is nobody's");
    loaded
}

/// Debian's 32-bit kernels are built without CONFIG_XEN_DOM0, and would say less.
const NO_32_BIT_DOM0: &str =
    "it is a 32-bit Linux, which runs as a guest only; dom0 needs a 64-bit one";

fn load_from(machine: &BootedMachine, module: &Module) -> Result<Loaded, String> {
    let file = read(module)?;
    let opened = KernelFile::open(&file).map_err(|error| error.to_string())?;
    if matches!(opened, KernelFile::BzImage(image) if image.is_32_bit) {
        return Err(NO_32_BIT_DOM0.to_string());
    }
    match opened.payload() {
        None => place(machine, &file),
        Some(payload) => place(machine, &unpack(&payload)?),
    }
}

fn read(module: &Module) -> Result<Vec<u8>, String> {
    let length = usize::try_from(module.end - module.start).map_err(|_| too_large())?;
    let mut file = room(length)?;
    direct_map::read(module.start, &mut file)
        .map_err(|_| "the module is not in RAM".to_string())?;
    Ok(file)
}

fn unpack(payload: &Payload<'_>) -> Result<Vec<u8>, String> {
    milestone("dom0's kernel read");
    let mut image = room(payload.unpacked_size())?;
    payload
        .unpack(&mut image)
        .map_err(|error| error.to_string())?;
    milestone("dom0's kernel unpacked");
    info!(
        "dom0's kernel: {} KiB from {}",
        image.len() >> 10,
        payload.format()
    );
    Ok(image)
}

fn room(length: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| too_large())?;
    bytes.resize(length, 0);
    Ok(bytes)
}

fn too_large() -> String {
    "there is too little memory to unpack it; give the machine more memory".to_string()
}

/// Copies the segments to where they belong.
fn place(machine: &BootedMachine, file: &[u8]) -> Result<Loaded, String> {
    let kernel = Kernel::parse(file).map_err(|error| error.to_string())?;
    let reserved = taken(machine, &machine.low_ram);
    let kernel =
        place_kernel(&machine.memory, &reserved, &kernel).map_err(|error| error.to_string())?;
    let extent = kernel.extent();
    let place = MfnRange::covering(host_address(extent.start), host_address(extent.end));
    let frames = memory::free().lock().alloc_exact(place);
    let frames = frames.ok_or_else(|| alloc::format!("its place at {} is taken", extent.start))?;
    memory::zero(place);
    for segment in &kernel.segments {
        let at = host_address(segment.start);
        direct_map::write(at, segment.data).expect("the place is RAM that we just took");
    }
    Ok(Loaded {
        entry: kernel.entry,
        extent,
        frames,
    })
}

/// dom0's memory is identity-mapped.
fn host_address(gpa: Gpa) -> Hpa {
    Hpa::new(gpa.as_u64())
}
