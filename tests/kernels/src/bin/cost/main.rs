//! What operations cost, from guest instruction to guest instruction, in TSC ticks (Bochs: instructions).
//!
//! A line an operation, `--- cost NAME: MIN MEDIAN P90 MAX`, and a verdict: Failure where the median is over the
//! budget. Names and method are those of the figures that Xen was measured with: a pair of RDTSC around the
//! instruction, which itself costs what `cost_empty` says.
#![no_std]
#![no_main]
#![expect(
    clippy::result_large_err,
    reason = "a verdict carries its text: there is no heap"
)]

mod grants;
mod ops;
mod samples;

use guest_rt::report;

guest_rt::entry!(main);

fn main() {
    report::run_all(ops::TESTS);
    report::run_all(grants::TESTS);
}
