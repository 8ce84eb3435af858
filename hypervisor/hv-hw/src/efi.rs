//! EFI's runtime services, on page tables of their own.
//!
//! UNSAFETY: calls code that is the firmware's, at addresses that its tables name, and switches the registers that it
//! may change.
//!
//! The firmware runs in ring 0, at its physical addresses, with interrupts off, on the hypervisor's stack; the upper
//! half of the address space is the hypervisor's as ever, so that arguments, stack and exception handlers are there. It
//! is trusted: nothing keeps it from writing where it likes. An exception in it ends the host with a dump that says so,
//! as it may have left its own data half changed, and nobody could tell what else. Source: UEFI specification,
//! "Calling Conventions, x64 Platforms", "Runtime Services Rules and Restrictions".
#![expect(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use hv_core::addr::PageOrder;
use hv_core::firmware::efi::{RuntimeRange, RuntimeServices, Service};
use hv_core::le::halves;
use hv_core::mem::TableFrames;
use hv_core::paging::PageTable;
use hv_core::paging::host::{Host, HostAttr, HostPage};
use x86_64::registers::control::{Cr4, Cr4Flags};

use crate::direct_map::DirectTables;
use crate::paging::{self, OutOfFrames};
use crate::sync::{RankedLock, rank};

/// What a service returns: 0, or an error with the highest bit set.
pub type Status = u64;
/// `EFI_TIME` as bytes.
pub type Time = [u8; 16];
/// `EFI_GUID` as bytes.
pub type Guid = [u8; 16];

/// `EFI_TIME_CAPABILITIES`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct TimeCapabilities {
    pub resolution: u32,
    pub accuracy: u32,
    pub sets_to_zero: u8,
}

/// How much room there is for variables, in bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct VariableInfo {
    pub max_store: u64,
    pub remaining: u64,
    pub max_size: u64,
}

struct Firmware {
    space: PageTable<Host>,
    services: RuntimeServices,
    saved: Saved,
}

/// A guest's extended state, which is in the CPU while its hypercall is served.
#[repr(C, align(64))]
struct Saved {
    /// All but the legacy region's components; what is shown to guests takes less.
    extended: [u8; 4096],
    legacy: [u8; 512],
}

static FIRMWARE: RankedLock<Option<Firmware>, { rank::FIRMWARE }> = RankedLock::new(None);
/// The firmware runs.
static IS_INSIDE: AtomicBool = AtomicBool::new(false);

/// Maps what the services need; from then on they can be called. `ranges` are nobody's RAM (`efi::plan`).
///
/// # Errors
/// [`OutOfFrames`] where a page table is needed and memory is out.
pub fn init(
    frames: &mut impl TableFrames,
    ranges: &[RuntimeRange],
    services: RuntimeServices,
) -> Result<(), OutOfFrames> {
    let mut space = PageTable::new(frames, PageOrder::SIZE_2M).ok_or(OutOfFrames)?;
    for range in ranges {
        let attr = match (range.is_cached, range.is_code) {
            (false, _) => HostAttr::DEVICE,
            (true, false) => HostAttr::DATA,
            (true, true) => HostAttr::FIRMWARE_CODE,
        };
        let start = range.frames.start;
        let first = HostPage::containing(start.base().as_u64());
        let flush = space
            .map(
                (&mut DirectTables, frames),
                first,
                range.frames.len(),
                (start, attr),
            )
            .map_err(|_incomplete| OutOfFrames)?;
        // no CPU uses these tables yet
        let _ = flush.completed();
    }
    *FIRMWARE.lock() = Some(Firmware {
        space,
        services,
        saved: Saved {
            extended: [0; 4096],
            legacy: [0; 512],
        },
    });
    Ok(())
}

/// True while the firmware runs: an exception is its own.
pub(crate) fn is_inside() -> bool {
    IS_INSIDE.load(Ordering::Relaxed)
}

/// Calls a service, if there is one: its entry, as a function of the given type, with the given arguments.
macro_rules! service {
    ($service:ident, fn($($type:ty),*), ($($argument:expr),*)) => {
        call(Service::$service, |entry| {
            let entry: *const () = core::ptr::with_exposed_provenance(entry);
            // SAFETY: the firmware's table names it as this service, and `plan` found it in code of the firmware's that
            // `call` has mapped; the specification says that it has this type.
            let function = unsafe {
                core::mem::transmute::<*const (), unsafe extern "efiapi" fn($($type),*) -> Status>(entry)
            };
            // SAFETY: the pointers are to objects of the size that the specification says, in memory that stays mapped.
            unsafe { function($($argument),*) }
        })
    };
}

/// Reads the clock; `None`, here and below, where the firmware has no such service.
pub fn get_time(time: &mut Time, capabilities: &mut TimeCapabilities) -> Option<Status> {
    service!(
        GetTime,
        fn(*mut Time, *mut TimeCapabilities),
        (time, capabilities)
    )
}

pub fn set_time(time: &Time) -> Option<Status> {
    service!(SetTime, fn(*const Time), (time))
}

/// Reads when the machine is to wake up, whether it is to, and whether that time has come.
pub fn get_wakeup_time(enabled: &mut u8, pending: &mut u8, time: &mut Time) -> Option<Status> {
    service!(
        GetWakeupTime,
        fn(*mut u8, *mut u8, *mut Time),
        (enabled, pending, time)
    )
}

/// Has the machine wake up, at `time` or at the one set before, or not.
pub fn set_wakeup_time(is_enabled: bool, time: Option<&Time>) -> Option<Status> {
    let time = time.map_or(core::ptr::null(), core::ptr::from_ref);
    service!(
        SetWakeupTime,
        fn(u8, *const Time),
        (u8::from(is_enabled), time)
    )
}

/// Reads a variable into `data`; says its size, and that it fits. `name` must have an end, or this panics.
pub fn get_variable(
    (name, vendor): (&[u16], &Guid),
    attributes: &mut u32,
    data: &mut [u8],
) -> Option<(Status, u64)> {
    assert_ended(name);
    let mut size = data.len() as u64;
    let status = service!(
        GetVariable,
        fn(*const u16, *const Guid, *mut u32, *mut u64, *mut u8),
        (
            name.as_ptr(),
            vendor,
            attributes,
            &raw mut size,
            data.as_mut_ptr()
        )
    )?;
    Some((status, size))
}

/// Writes a variable, or removes it, where `data` is empty. `name` must have an end, or this panics.
pub fn set_variable(
    (name, vendor): (&[u16], &Guid),
    attributes: u32,
    data: &[u8],
) -> Option<Status> {
    assert_ended(name);
    service!(
        SetVariable,
        fn(*const u16, *const Guid, u32, u64, *const u8),
        (
            name.as_ptr(),
            vendor,
            attributes,
            data.len() as u64,
            data.as_ptr()
        )
    )
}

/// Replaces a variable's name by the next one's; says the size of that in bytes. `name` must have an end, or this
/// panics.
pub fn next_variable_name(name: &mut [u16], vendor: &mut Guid) -> Option<(Status, u64)> {
    assert_ended(name);
    let mut size = size_of_val(name) as u64;
    let status = service!(
        GetNextVariableName,
        fn(*mut u64, *mut u16, *mut Guid),
        (&raw mut size, name.as_mut_ptr(), vendor)
    )?;
    Some((status, size))
}

pub fn next_high_monotonic_count(count: &mut u32) -> Option<Status> {
    service!(GetNextHighMonotonicCount, fn(*mut u32), (count))
}

/// Asks how much room there is for variables with these attributes.
pub fn query_variable_info(attributes: u32, info: &mut VariableInfo) -> Option<Status> {
    let VariableInfo {
        max_store,
        remaining,
        max_size,
    } = info;
    service!(
        QueryVariableInfo,
        fn(u32, *mut u64, *mut u64, *mut u64),
        (attributes, max_store, remaining, max_size)
    )
}

fn assert_ended(name: &[u16]) {
    assert!(name.contains(&0), "the firmware reads up to a name's end");
}

/// Calls `function` with the entry of `service`, on the firmware's page tables and with the guest's state put aside.
fn call(service: Service, function: impl FnOnce(usize) -> Status) -> Option<Status> {
    let mut firmware = FIRMWARE.lock();
    let Firmware {
        space,
        services,
        saved,
    } = firmware.as_mut()?;
    let entry = usize::try_from(services.entry(service)?).ok()?;
    paging::lend_upper_half(space)?;
    saved.take();
    IS_INSIDE.store(true, Ordering::Relaxed);
    // some firmware opens interrupts: one that it let in nobody would end
    set_task_priority(HOLDS_ALL);
    let own = paging::switch_to(space.root());
    let status = function(entry);
    // and forgets to close them
    x86_64::instructions::interrupts::disable();
    paging::switch_to(own);
    set_task_priority(HOLDS_NONE);
    IS_INSIDE.store(false, Ordering::Relaxed);
    saved.put_back();
    Some(status)
}

/// Values of CR8, the task priority of this CPU's local APIC.
const HOLDS_ALL: u64 = 15;
const HOLDS_NONE: u64 = 0;

fn set_task_priority(class: u64) {
    // SAFETY: holds external interrupts back, or lets them in, which IF still does not.
    unsafe { asm!("mov cr8, {}", in(reg) class, options(nomem, nostack)) };
}

/// Components of extended state that the legacy region has not: those of a save with the rest.
const BEYOND_LEGACY: u64 = !3;

impl Saved {
    /// Takes the guest's state out of the CPU, and leaves what the firmware may expect: no exceptions of either unit
    /// unmasked, and an empty stack of x87.
    fn take(&mut self) {
        static MXCSR: u32 = 0x1F80;
        let legacy = self.legacy.as_mut_ptr();
        // SAFETY: the area is 512 bytes, and starts at a multiple of 64.
        unsafe { asm!("fxsave64 [{}]", in(reg) legacy, options(nostack)) };
        if has_xsave() {
            let extended = self.extended.as_mut_ptr();
            let (low, high) = halves(BEYOND_LEGACY);
            // SAFETY: the area is aligned to 64 bytes, and larger than all components that guests have.
            unsafe {
                asm!("xsave64 [{}]", in(reg) extended, in("eax") low, in("edx") high, options(nostack));
            }
        }
        // SAFETY: the state is saved; the new one is what reset leaves.
        unsafe { asm!("fninit", "ldmxcsr [{}]", in(reg) &raw const MXCSR, options(nostack)) };
    }

    fn put_back(&self) {
        if has_xsave() {
            let extended = self.extended.as_ptr();
            let (low, high) = halves(BEYOND_LEGACY);
            // SAFETY: XSAVE has written the area, with the same XCR0.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) extended, in("eax") low, in("edx") high, options(nostack));
            }
        }
        // SAFETY: FXSAVE has written the area.
        unsafe { asm!("fxrstor64 [{}]", in(reg) self.legacy.as_ptr(), options(nostack)) };
    }
}

fn has_xsave() -> bool {
    Cr4::read().contains(Cr4Flags::OSXSAVE)
}
