//! Tests of everything a guest can see: one image, booted in dom0's place, a verdict line a test.
//!
//! The order matters in two places: the two-level event tests come before those of FIFO, which end with a reset; and
//! tests that end the domain run only when named exactly (`test=fatal_triple_fault`).
#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    reason = "registers are cut into halves, addresses are 64-bit"
)]
#![expect(
    clippy::result_large_err,
    reason = "a verdict carries its text: there is no heap"
)]

mod apic;
mod arguments;
mod between;
mod clock;
mod cpuid;
mod dom0;
mod domain;
mod domctl;
mod entry;
mod event;
mod exception;
mod fatal;
mod fifo;
mod grant;
mod hypercall;
mod io;
mod memory;
mod msr;
mod narrow;
mod software;
mod task;
mod timer;
mod toolstack;
mod vcpus;
mod version;
mod xapic;
mod xsave;

use guest_rt::{Test, report};

guest_rt::entry!(main);

fn main() {
    for tests in GROUPS {
        report::run_all(tests);
    }
}

static GROUPS: &[&[Test]] = &[
    entry::TESTS,
    xapic::START,
    cpuid::TESTS,
    msr::TESTS,
    version::TESTS,
    hypercall::TESTS,
    arguments::TESTS,
    narrow::TESTS,
    exception::TESTS,
    software::TESTS,
    task::TESTS,
    apic::TESTS,
    xapic::TESTS,
    io::TESTS,
    xsave::TESTS,
    event::TESTS,
    clock::TESTS,
    timer::TESTS,
    vcpus::TESTS,
    memory::TESTS,
    grant::TESTS,
    grant::mapping::TESTS,
    grant::copying::TESTS,
    grant::random::TESTS,
    grant::foreign::TESTS,
    dom0::TESTS,
    toolstack::TESTS,
    domctl::TESTS,
    domctl::policy::TESTS,
    domctl::context::TESTS,
    domctl::vcpus::TESTS,
    domain::TESTS,
    between::TESTS,
    fifo::TESTS,
    fatal::TESTS,
];
