//! Two-level event channels and the upcall: the shared info page, ports, and a log of which events arrived in what
//! order.

// UNSAFETY: a page that the hypervisor replaces and writes at any time; touched through atomics only.
#![expect(unsafe_code, reason = "the shared info page")]

use crate::traps::{self, Fault, TrapFrame};
use crate::{Stop, broken, fifo, hypercall, insn};
use core::cell::UnsafeCell;
use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst,
};
use guest_abi::event_channel::{
    EVTCHNOP_alloc_unbound, EVTCHNOP_bind_interdomain, EVTCHNOP_bind_ipi, EVTCHNOP_bind_virq,
    EVTCHNOP_close, EVTCHNOP_send, EVTCHNOP_unmask, EvtchnAllocUnbound, EvtchnBindInterdomain,
    EvtchnBindIpi, EvtchnBindVirq, EvtchnClose, EvtchnSend, EvtchnUnmask,
};
use guest_abi::hvm::hvm_op::{HVMOP_set_evtchn_upcall_vector, XenHvmEvtchnUpcallVector};
use guest_abi::memory::{XENMAPSPACE_shared_info, XENMEM_add_to_physmap, XenAddToPhysmap};
use guest_abi::vcpu::{VCPUOP_register_vcpu_info, VcpuRegisterVcpuInfo};
use guest_abi::xen::{
    DOMID_SELF, SHARED_INFO_EVTCHN_MASK, SHARED_INFO_EVTCHN_PENDING, VCPU_INFO_PENDING_SEL,
    VCPU_INFO_TIME, VCPU_INFO_UPCALL_PENDING, VcpuTimeInfo,
};

/// The vector that tells of events, the one Linux uses.
pub const UPCALL_VECTOR: u8 = 0xF3;
/// Two-level ports.
pub const PORTS: u32 = 4096;
/// x2APIC: end of interrupt.
pub const X2APIC_EOI: u32 = 0x80B;
/// x2APIC: spurious vector and software enable.
pub const X2APIC_SVR: u32 = 0x80F;
const APIC_BASE: u32 = 0x1B;
/// EN and EXTD.
const X2APIC_ENABLE: u64 = 0xC00;

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; 4096]>);
// SAFETY: touched through atomics only.
unsafe impl Sync for Page {}
static SHARED_INFO: Page = Page(UnsafeCell::new([0; 4096]));
static MOVED_VCPU_INFO: Page = Page(UnsafeCell::new([0; 4096]));

static IS_SET_UP: AtomicBool = AtomicBool::new(false);
static UPCALLS: AtomicU64 = AtomicU64::new(0);
/// Copy of the vcpu_info's address: it may move.
static VCPU_INFO: AtomicUsize = AtomicUsize::new(0);
static LOG: [AtomicU32; LOG_LEN] = [const { AtomicU32::new(0) }; LOG_LEN];
static LOGGED: AtomicUsize = AtomicUsize::new(0);
static LAST_UPCALL_TSC: AtomicU64 = AtomicU64::new(0);
const LOG_LEN: usize = 64;

/// Maps the shared info page, masks all ports, and sets the upcall vector; once, later calls do nothing.
///
/// # Errors
/// Skip without a hypervisor; Failure where a call is refused.
pub fn setup() -> Result<(), Stop> {
    if !hypercall::present() {
        crate::skip!("no hypervisor");
    }
    if IS_SET_UP.swap(true, Relaxed) {
        return Ok(());
    }
    VCPU_INFO.store(SHARED_INFO.0.get() as usize, Relaxed);
    map_shared_info()?;
    for word in 0..64 {
        word64(SHARED_INFO_EVTCHN_MASK + word * 8).store(u64::MAX, SeqCst);
    }
    traps::set_handler(UPCALL_VECTOR, Some(upcall));
    traps::set_handler(0xFF, Some(|_| ()));
    enable_apic()
        .map_err(|fault| broken!("the local APIC cannot be set to x2APIC mode: {fault:?}"))?;
    let vector = XenHvmEvtchnUpcallVector {
        vcpu: 0,
        vector: UPCALL_VECTOR,
        _pad: [0; 3],
    };
    let (result, _) = hypercall::hvm(HVMOP_set_evtchn_upcall_vector, vector);
    crate::check_eq!(result, 0, "set_evtchn_upcall_vector");
    Ok(())
}

/// x2APIC mode, which no vCPU starts in, and the software enable.
fn enable_apic() -> Result<(), Fault> {
    let base = insn::rdmsr_safe(APIC_BASE)?;
    if base & X2APIC_ENABLE != X2APIC_ENABLE {
        insn::wrmsr_safe(APIC_BASE, base | X2APIC_ENABLE)?;
    }
    insn::wrmsr_safe(X2APIC_SVR, 0x1FF)
}

/// Puts the shared info page where this module expects it.
///
/// # Errors
/// Failure where it is refused.
pub fn map_shared_info() -> Result<(), Stop> {
    let gpfn = SHARED_INFO.0.get() as u64 >> 12;
    let arg = XenAddToPhysmap {
        domid: DOMID_SELF,
        size: 0,
        space: XENMAPSPACE_shared_info,
        idx: 0,
        gpfn,
    };
    let (result, _) = hypercall::memory(XENMEM_add_to_physmap, arg);
    crate::check_eq!(result, 0, "add_to_physmap(shared_info)");
    Ok(())
}

/// Makes an IPI port of vCPU 0: sending to it makes it pending itself. It starts masked.
///
/// # Errors
/// Failure where it is refused.
pub fn bind_ipi() -> Result<u32, Stop> {
    let (result, arg) =
        hypercall::event_channel(EVTCHNOP_bind_ipi, EvtchnBindIpi { vcpu: 0, port: 0 });
    crate::check_eq!(result, 0, "bind_ipi");
    crate::check!(
        arg.port != 0 && arg.port < PORTS,
        "bind_ipi gave port {}",
        arg.port
    );
    mask(arg.port);
    Ok(arg.port)
}

/// Binds a virtual interrupt of vCPU 0; the result and the port, which starts masked.
#[must_use]
pub fn bind_virq(virq: u32) -> (i64, u32) {
    let (result, arg) = hypercall::event_channel(
        EVTCHNOP_bind_virq,
        EvtchnBindVirq {
            virq,
            vcpu: 0,
            port: 0,
        },
    );
    if result == 0 {
        mask(arg.port);
    }
    (result, arg.port)
}

/// Makes two connected ports of our own: (unbound side, binding side). The second is pending once, as bound.
///
/// # Errors
/// Failure where it is refused.
pub fn loopback() -> Result<(u32, u32), Stop> {
    let arg = EvtchnAllocUnbound {
        dom: DOMID_SELF,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    let (result, unbound) = hypercall::event_channel(EVTCHNOP_alloc_unbound, arg);
    crate::check_eq!(result, 0, "alloc_unbound");
    mask(unbound.port);
    let arg = EvtchnBindInterdomain {
        remote_dom: DOMID_SELF,
        _pad: 0,
        remote_port: unbound.port,
        local_port: 0,
    };
    let (result, bound) = hypercall::event_channel(EVTCHNOP_bind_interdomain, arg);
    crate::check_eq!(result, 0, "bind_interdomain");
    mask(bound.local_port);
    Ok((unbound.port, bound.local_port))
}

/// Sends.
pub fn send(port: u32) -> i64 {
    hypercall::event_channel(EVTCHNOP_send, EvtchnSend { port }).0
}

/// Closes.
pub fn close(port: u32) -> i64 {
    hypercall::event_channel(EVTCHNOP_close, EvtchnClose { port }).0
}

/// Unmasks by hypercall, which also notifies if the port is pending.
pub fn unmask(port: u32) -> i64 {
    hypercall::event_channel(EVTCHNOP_unmask, EvtchnUnmask { port }).0
}

/// Masks, in the shared memory.
pub fn mask(port: u32) {
    if fifo::is_on() {
        fifo::mask(port);
    } else {
        let (word, bit) = place(SHARED_INFO_EVTCHN_MASK, port);
        word.fetch_or(bit, SeqCst);
    }
}

/// Clears the mask bit without telling the hypervisor (two-level).
pub fn unmask_quietly(port: u32) {
    let (word, bit) = place(SHARED_INFO_EVTCHN_MASK, port);
    word.fetch_and(!bit, SeqCst);
}

/// Whether a port is masked (two-level).
#[must_use]
pub fn is_masked(port: u32) -> bool {
    let (word, bit) = place(SHARED_INFO_EVTCHN_MASK, port);
    word.load(SeqCst) & bit != 0
}

/// Whether a port is pending (two-level).
#[must_use]
pub fn is_pending(port: u32) -> bool {
    let (word, bit) = place(SHARED_INFO_EVTCHN_PENDING, port);
    word.load(SeqCst) & bit != 0
}

/// Clears a port's pending bit (two-level); whether it was set.
pub fn take_pending(port: u32) -> bool {
    let (word, bit) = place(SHARED_INFO_EVTCHN_PENDING, port);
    word.fetch_and(!bit, SeqCst) & bit != 0
}

/// `evtchn_upcall_pending` of vCPU 0.
#[must_use]
pub fn upcall_pending() -> bool {
    upcall_pending_byte().load(SeqCst) != 0
}

/// `evtchn_pending_sel` of vCPU 0.
#[must_use]
pub fn pending_sel() -> u64 {
    pending_sel_word().load(SeqCst)
}

/// Clears what a send left behind when no upcall may run: upcall_pending and the selector.
pub fn clear_upcall() {
    upcall_pending_byte().store(0, SeqCst);
    pending_sel_word().store(0, SeqCst);
}

/// Upcalls taken so far.
#[must_use]
pub fn upcalls() -> u64 {
    UPCALLS.load(SeqCst)
}

/// TSC at the entry of the last upcall.
#[must_use]
pub fn last_upcall_tsc() -> u64 {
    LAST_UPCALL_TSC.load(SeqCst)
}

/// Events logged since [`clear_log`].
#[must_use]
pub fn logged() -> usize {
    LOGGED.load(SeqCst)
}

/// The `index`th port logged.
#[must_use]
pub fn log_entry(index: usize) -> u32 {
    LOG[index % LOG_LEN].load(SeqCst)
}

/// How often a port was logged.
#[must_use]
pub fn times_logged(port: u32) -> usize {
    (0..logged().min(LOG_LEN))
        .filter(|&index| log_entry(index) == port)
        .count()
}

/// Forgets the log.
pub fn clear_log() {
    LOGGED.store(0, SeqCst);
}

pub(crate) fn log(port: u32) {
    let index = LOGGED.fetch_add(1, SeqCst);
    LOG[index % LOG_LEN].store(port, SeqCst);
}

/// One copy of vCPU 0's clock parameters; may be torn (see [`crate::time::parameters`]).
#[must_use]
pub fn vcpu_time() -> VcpuTimeInfo {
    let at = VCPU_INFO.load(Relaxed) + VCPU_INFO_TIME;
    // SAFETY: inside a mapped vcpu_info; volatile, as the hypervisor writes it; any bytes are a clock.
    unsafe { (at as *const VcpuTimeInfo).read_volatile() }
}

/// The linear address of the shared info page.
#[must_use]
pub fn shared_info_address() -> u64 {
    SHARED_INFO.0.get() as u64
}

/// Asks the hypervisor to keep vCPU 0's vcpu_info in a page of ours; the result.
pub fn move_vcpu_info() -> i64 {
    let mfn = MOVED_VCPU_INFO.0.get() as u64 >> 12;
    let arg = VcpuRegisterVcpuInfo {
        mfn,
        offset: 0x80,
        rsvd: 0,
    };
    let (result, _) = hypercall::vcpu(VCPUOP_register_vcpu_info, 0, arg);
    if result == 0 {
        VCPU_INFO.store(MOVED_VCPU_INFO.0.get() as usize + 0x80, SeqCst);
    }
    result
}

/// A 32-bit word of the shared info page.
#[must_use]
pub fn shared_word32(offset: usize) -> u32 {
    let at = SHARED_INFO.0.get() as usize + (offset & 0xFFC);
    // SAFETY: inside the page, aligned, and everyone uses atomics.
    unsafe { &*(at as *const AtomicU32) }.load(SeqCst)
}

fn upcall(_: &mut TrapFrame) {
    LAST_UPCALL_TSC.store(insn::tsc(), SeqCst);
    let _ = insn::wrmsr_safe(X2APIC_EOI, 0);
    UPCALLS.fetch_add(1, SeqCst);
    upcall_pending_byte().store(0, SeqCst);
    if fifo::is_on() {
        return fifo::drain();
    }
    let mut selector = pending_sel_word().swap(0, SeqCst);
    while selector != 0 {
        let word = selector.trailing_zeros();
        selector &= selector - 1;
        let pending = word64(SHARED_INFO_EVTCHN_PENDING + word as usize * 8);
        let mut active = pending.load(SeqCst)
            & !word64(SHARED_INFO_EVTCHN_MASK + word as usize * 8).load(SeqCst);
        while active != 0 {
            let bit = active.trailing_zeros();
            active &= active - 1;
            pending.fetch_and(!(1 << bit), SeqCst);
            log(word * 64 + bit);
        }
    }
}

fn place(base: usize, port: u32) -> (&'static AtomicU64, u64) {
    (
        word64(base + (port as usize % PORTS as usize) / 64 * 8),
        1 << (port % 64),
    )
}

fn word64(offset: usize) -> &'static AtomicU64 {
    let at = SHARED_INFO.0.get() as usize + (offset & 0xFF8);
    // SAFETY: inside the page, aligned, and everyone uses atomics.
    unsafe { &*(at as *const AtomicU64) }
}

fn upcall_pending_byte() -> &'static AtomicU8 {
    let at = VCPU_INFO.load(Relaxed) + VCPU_INFO_UPCALL_PENDING;
    // SAFETY: inside a vcpu_info that stays where it is, and everyone uses atomics.
    unsafe { &*(at as *const AtomicU8) }
}

fn pending_sel_word() -> &'static AtomicU64 {
    let at = VCPU_INFO.load(Relaxed) + VCPU_INFO_PENDING_SEL;
    // SAFETY: as above, 8-aligned.
    unsafe { &*(at as *const AtomicU64) }
}
