//! Who is typing to whom: dom0's console, or the hypervisor's debug keys after the switch character three times.
//!
//! Source: Xen's `conswitch` and debug keys; the keys are listed in `debug_keys`.

pub(crate) mod debug_keys;

use alloc::collections::VecDeque;

use hv_core::evtchn::Virq;
use hv_hw::console as device;
use hv_hw::info;
use hv_hw::once_a_machine;
use hv_hw::sync::{RankedLock, rank};

use crate::domain::{Domain, registry};
use crate::machine::host;
use hv_core::domid::DomId;

/// Switches in a row that change the addressee.
const SWITCHES: u8 = 3;
/// Bytes kept for a dom0 that does not read.
const INPUT_BYTES: usize = 4096;

struct Input {
    for_dom0: VecDeque<u8>,
    switches: u8,
    is_ours: bool,
}

impl Input {
    const fn new() -> Self {
        Self {
            for_dom0: VecDeque::new(),
            switches: 0,
            is_ours: false,
        }
    }
}

/// The console of a machine.
struct Console {
    input: RankedLock<Input, { rank::SCHED }>,
}

impl Console {
    const fn new() -> Self {
        Self {
            input: RankedLock::new(Input::new()),
        }
    }
}

once_a_machine! {
    fn console() -> Console = Console::new();
}

pub(crate) fn typed() {
    let mut bytes = [0; 64];
    loop {
        let count = device::read(&mut bytes);
        if count == 0 {
            return;
        }
        for byte in bytes.iter().take(count) {
            take(*byte);
        }
    }
}

fn take(byte: u8) {
    let conswitch = control_code(host::host().options.conswitch);
    let is_switch = byte == conswitch;
    let mut input = console().input.lock();
    if is_switch {
        input.switches += 1;
        if input.switches == SWITCHES {
            input.switches = 0;
            input.is_ours = !input.is_ours;
            let to = if input.is_ours {
                "Hematite (h for help)"
            } else {
                "dom0"
            };
            drop(input);
            // HOST LOG: somebody at the console typed for it
            info!("*** console input goes to {to}; type Ctrl-a three times to switch ***");
        }
        return;
    }
    // switches that turned out to be text
    let owed = core::mem::take(&mut input.switches);
    if input.is_ours {
        drop(input);
        debug_keys::pressed(byte);
        return;
    }
    for byte in core::iter::repeat_n(conswitch, usize::from(owed)).chain([byte]) {
        if input.for_dom0.len() < INPUT_BYTES {
            input.for_dom0.push_back(byte);
        }
    }
    drop(input);
    if let Some(dom0) = registry::find(DomId::DOM0) {
        dom0.raise_virq(0, Virq::CONSOLE);
    }
}

/// What Ctrl with a letter sends.
fn control_code(letter: u8) -> u8 {
    letter & 0x1F
}

/// Takes what was typed for dom0; returns how many bytes.
pub(crate) fn take_input(to: &mut [u8]) -> usize {
    let mut input = console().input.lock();
    let mut count = 0;
    for (slot, byte) in to
        .iter_mut()
        .zip(core::iter::from_fn(|| input.for_dom0.pop_front()))
    {
        *slot = byte;
        count += 1;
    }
    count
}

/// A domain prints: dom0 as it is, others to the log, at a limited rate.
pub(crate) fn guest_output(domain: &Domain, text: &[u8]) {
    if !domain.is_hardware {
        return guest_debug(domain, text);
    }
    device::write(text);
}

/// A domain prints to its debug console: lines in the log, with its number before them.
pub(crate) fn guest_debug(domain: &Domain, text: &[u8]) {
    let mut line = domain.debug_line.lock();
    for byte in text {
        match byte {
            b'\n' => {
                domain.log.words(&line);
                line.clear();
            }
            b' '..=b'~' | b'\t' => {
                if line.is_full() {
                    domain.log.words(&line);
                    line.clear();
                }
                line.push(char::from(*byte));
            }
            _ => {}
        }
    }
}
