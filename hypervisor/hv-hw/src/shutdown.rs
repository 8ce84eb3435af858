//! How the machine ends: reset by whichever way works, power off, or halt.
//!
//! UNSAFETY: the last way to reset is an exception that cannot be delivered.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicBool, Ordering};

use hv_core::options::RebootMethod;

use crate::sync::Once;
use crate::{console, insn, port, time};

/// The FADT's reset register where it is an I/O port, and what to write there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResetRegister {
    pub port: u16,
    /// The value that resets.
    pub value: u8,
}

/// How this machine resets and powers off, as far as ACPI says.
#[derive(Clone, Copy, Default, Debug)]
pub struct Ways {
    /// The FADT's reset register.
    pub reset: Option<ResetRegister>,
    /// The way asked for by `reboot=`.
    pub preferred: Option<RebootMethod>,
}

static WAYS: Once<Ways> = Once::new();
/// True where a dying host shall stay as it is (`noreboot`); until the options are read it does.
static STAYS_DEAD: AtomicBool = AtomicBool::new(true);

/// How long a dead host's last words stay on the screen before it reboots.
const LAST_WORDS_NS: u64 = 5_000_000_000;
/// How long a way to reset gets before the next is tried.
const PATIENCE_NS: u64 = 100_000_000;

/// Says how the machine resets. The first call counts.
pub fn set_ways(ways: Ways) {
    WAYS.call_once(|| ways);
}

/// Says whether a dead host halts (`noreboot`) or reboots.
pub fn set_noreboot(stays_dead: bool) {
    STAYS_DEAD.store(stays_dead, Ordering::Relaxed);
}

/// What a dead host does: halts or, five seconds later, reboots.
pub(crate) fn after_death() -> ! {
    if STAYS_DEAD.load(Ordering::Relaxed) {
        console::write_dying(format_args!("halted\n"));
        insn::halt_for_ever();
    }
    console::write_dying(format_args!("rebooting in five seconds\n"));
    time::spin_ns(LAST_WORDS_NS);
    reset()
}

/// Resets the machine: the preferred way first, then the others, from gentle to rude.
pub fn reset() -> ! {
    let ways = WAYS.get().copied().unwrap_or_default();
    let usual = [
        RebootMethod::Acpi,
        // before the keyboard controller, which on many machines only pulls INIT: VMX operation blocks that, and it
        // leaves IA32_FEATURE_CONTROL locked, which firmware does not expect
        RebootMethod::Pci,
        RebootMethod::Keyboard,
        RebootMethod::TripleFault,
    ];
    if ways.preferred == Some(RebootMethod::Never) {
        insn::halt_for_ever();
    }
    for method in ways.preferred.into_iter().chain(usual) {
        try_reset(method, &ways);
        time::spin_ns(PATIENCE_NS);
    }
    insn::halt_for_ever()
}

fn try_reset(method: RebootMethod, ways: &Ways) {
    match method {
        RebootMethod::Acpi => {
            if let Some(register) = ways.reset {
                port::write8(register.port, register.value);
            }
        }
        RebootMethod::Keyboard => {
            // Bounded: a machine without the controller reads all ones.
            for _ in 0..100_000 {
                if port::read8(KEYBOARD_STATUS) & KEYBOARD_INPUT_FULL == 0 {
                    break;
                }
            }
            port::write8(KEYBOARD_STATUS, KEYBOARD_PULSE_RESET);
        }
        RebootMethod::Pci => {
            port::write8(PCI_RESET, PCI_RESET_HARD);
            port::write8(PCI_RESET, PCI_RESET_HARD | PCI_RESET_GO);
        }
        RebootMethod::PowerCycle => {
            port::write8(PCI_RESET, PCI_RESET_HARD | PCI_RESET_FULL);
            port::write8(PCI_RESET, PCI_RESET_HARD | PCI_RESET_FULL | PCI_RESET_GO);
        }
        RebootMethod::TripleFault => triple_fault(),
        RebootMethod::Never => {}
    }
}

const KEYBOARD_STATUS: u16 = 0x64;
const KEYBOARD_INPUT_FULL: u8 = 2;
const KEYBOARD_PULSE_RESET: u8 = 0xfe;
const PCI_RESET: u16 = 0xcf9;
const PCI_RESET_HARD: u8 = 2;
const PCI_RESET_GO: u8 = 4;
const PCI_RESET_FULL: u8 = 8;

/// Raises an exception that has no handler.
fn triple_fault() -> ! {
    #[repr(C, packed)]
    struct Empty {
        limit: u16,
        base: u64,
    }
    let empty = Empty { limit: 0, base: 0 };
    // SAFETY: nothing runs after this.
    unsafe {
        core::arch::asm!("lidt [{}]", "ud2", in(reg) &raw const empty, options(noreturn));
    }
}

/// Powers the machine off by ACPI's S5: `control` are the PM1 control registers (the second may be 0), `sleep_types`
/// the values of the DSDT's `\_S5` package. Returns where the machine ignores it.
pub fn power_off(control: [u16; 2], sleep_types: [u8; 2]) {
    const SLEEP_ENABLE: u16 = 1 << 13;
    const SLEEP_TYPE_SHIFT: u32 = 10;
    const KEPT: u16 = !(0x0f << 10);
    for (register, sleep_type) in control.into_iter().zip(sleep_types) {
        if register != 0 {
            let value =
                port::read16(register) & KEPT | u16::from(sleep_type & 7) << SLEEP_TYPE_SHIFT;
            port::write16(register, value | SLEEP_ENABLE);
        }
    }
    time::spin_ns(PATIENCE_NS);
}
