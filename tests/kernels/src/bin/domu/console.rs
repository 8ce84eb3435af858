//! Text on the guest's own console: the ring that xenconsoled empties.

// UNSAFETY: the ring is a page of memory that somebody else reads and writes.
#![expect(unsafe_code, reason = "the ring is shared memory")]

use core::fmt::Write;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering::SeqCst};
use guest_abi::hvm::hvm_op::{HVMOP_get_param, XenHvmParam};
use guest_abi::hvm::params::{HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN};
use guest_abi::io::console::{XENCONS_OUT_LEN, XenconsInterface};
use guest_abi::sched::SCHEDOP_yield;
use guest_abi::xen::{__HYPERVISOR_sched_op, DOMID_SELF};
use guest_rt::{event, hypercall};

/// A parameter of this domain, 0 where there is none.
pub(crate) fn parameter(index: u32) -> u64 {
    let arg = XenHvmParam {
        domid: DOMID_SELF,
        pad: 0,
        index,
        value: 0,
    };
    match hypercall::hvm(HVMOP_get_param, arg) {
        (0, arg) => arg.value,
        _ => 0,
    }
}

struct Ring {
    page: u64,
    port: u32,
}

impl Ring {
    fn find() -> Option<Self> {
        let page = parameter(HVM_PARAM_CONSOLE_PFN) << 12;
        let port = parameter(HVM_PARAM_CONSOLE_EVTCHN) as u32;
        (page != 0 && port != 0).then_some(Self { page, port })
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        let at = self.page as usize + offset;
        // SAFETY: the console's page is mapped for as long as this guest runs; both sides use atomics.
        unsafe { &*(at as *const AtomicU32) }
    }

    fn byte(&self, index: u32) -> &AtomicU8 {
        let at = self.page as usize
            + offset_of!(XenconsInterface, out)
            + index as usize % XENCONS_OUT_LEN;
        // SAFETY: as above.
        unsafe { &*(at as *const AtomicU8) }
    }

    fn put(&self, byte: u8) {
        let prod = self.word(offset_of!(XenconsInterface, out_prod));
        let cons = self.word(offset_of!(XenconsInterface, out_cons));
        while prod.load(SeqCst).wrapping_sub(cons.load(SeqCst)) >= XENCONS_OUT_LEN as u32 {
            let _ = event::send(self.port);
            let _ = hypercall::plain(__HYPERVISOR_sched_op, [u64::from(SCHEDOP_yield), 0]);
        }
        self.byte(prod.load(SeqCst)).store(byte, SeqCst);
        prod.fetch_add(1, SeqCst);
    }
}

impl Write for Ring {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        text.bytes().for_each(|byte| self.put(byte));
        Ok(())
    }
}

/// Prints a line, and waits where the ring is full. Does nothing without a console.
pub(crate) fn print(args: core::fmt::Arguments<'_>) {
    let Some(mut ring) = Ring::find() else {
        return;
    };
    let _ = ring.write_fmt(args);
    let _ = ring.write_str("\r\n");
    let _ = event::send(ring.port);
}

/// Prints for ever, as fast as it is let.
pub(crate) fn flood() {
    let Some(ring) = Ring::find() else {
        return;
    };
    loop {
        for letter in b'a'..=b'z' {
            ring.put(letter);
        }
        let _ = event::send(ring.port);
    }
}
