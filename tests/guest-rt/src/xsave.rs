//! Extended state: XSAVE areas filled with a pattern, loaded, and compared after something exited.
//!
//! This code is built without SSE, so that nothing but these functions ever touches the registers.

// UNSAFETY: XSAVE and XRSTOR of buffers of ours.
#![expect(unsafe_code, reason = "XSAVE and XRSTOR")]

use crate::insn;
use core::arch::asm;
use core::cell::UnsafeCell;

const AREA: usize = 16384;
#[repr(C, align(64))]
struct Area(UnsafeCell<[u8; AREA]>);
// SAFETY: one vCPU, and interrupt handlers do not use them.
unsafe impl Sync for Area {}
static LOADED: Area = Area(UnsafeCell::new([0; AREA]));
static SAVED: Area = Area(UnsafeCell::new([0; AREA]));

/// CPUID.1 ECX: the CPU has XSAVE.
#[must_use]
pub fn is_available() -> bool {
    insn::cpuid(1, 0).ecx & 1 << 26 != 0
}

/// XCR0 bits that CPUID offers.
#[must_use]
pub fn offered() -> u64 {
    let leaf = insn::cpuid(0xD, 0);
    u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
}

/// Sets CR4.OSXSAVE and all of XCR0 that is offered; what XCR0 is then.
///
/// # Errors
/// The fault that one of them raised.
pub fn enable() -> Result<u64, crate::Fault> {
    // SAFETY: adds OSXSAVE only.
    unsafe { insn::set_cr4_safe(insn::cr4() | 1 << 18) }?;
    insn::xsetbv_safe(0, offered())?;
    Ok(insn::xgetbv0())
}

/// Loads a pattern made from `seed` into every register of the enabled components.
///
/// # Panics
/// Where CPUID says that the area is larger than ours.
pub fn load(seed: u64, components: u64) {
    // SAFETY: one vCPU; no other reference exists.
    let area = unsafe { &mut *LOADED.0.get() };
    let mut state = seed | 1;
    area.iter_mut().for_each(|byte| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    });
    // legacy header: FCW, FSW, FTW, FOP, FIP, FDP; MXCSR and its mask
    area[..32].fill(0);
    area[..2].copy_from_slice(&0x037Fu16.to_le_bytes());
    area[4] = 0xFF;
    area[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
    for register in 0..8 {
        // a normal number: exponent and integer bit set
        area[32 + register * 16 + 7] |= 0x80;
        area[32 + register * 16 + 9] = 0x3F;
    }
    area[512..576].fill(0);
    area[512..520].copy_from_slice(&components.to_le_bytes());
    xrstor(area.as_ptr(), components);
}

/// Saves and names the first byte that is not as loaded: (component, byte in it).
#[must_use]
pub fn first_difference(components: u64) -> Option<(u32, usize)> {
    // SAFETY: one vCPU; no other reference exists.
    let loaded = unsafe { &*LOADED.0.get() };
    // SAFETY: as above.
    let saved = unsafe { &mut *SAVED.0.get() };
    saved.fill(0);
    xsave(saved.as_mut_ptr(), components);
    for component in (0..63).filter(|&c| components & 1 << c != 0) {
        let difference = match component {
            0 => (0..8)
                .flat_map(|r| (32 + r * 16)..(42 + r * 16))
                .find(|&at| loaded[at] != saved[at]),
            1 => (160..416).find(|&at| loaded[at] != saved[at]),
            _ => {
                let place = insn::cpuid(0xD, component);
                let (size, start) = (place.eax as usize, place.ebx as usize);
                // PKRU is 4 bytes of its 8
                let size = if component == 9 { 4 } else { size };
                (start..start + size).find(|&at| loaded[at] != saved[at])
            }
        };
        if let Some(at) = difference {
            return Some((component, at));
        }
    }
    None
}

fn xrstor(area: *const u8, components: u64) {
    let (low, high) = (components as u32, (components >> 32) as u32);
    // SAFETY: a whole, aligned area with a valid header; no compiled code uses these registers.
    unsafe { asm!("xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack)) };
}

fn xsave(area: *mut u8, components: u64) {
    let (low, high) = (components as u32, (components >> 32) as u32);
    // SAFETY: a whole, aligned area.
    unsafe { asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack)) };
}
