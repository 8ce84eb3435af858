//! Random hypercalls of 64-bit and 32-bit code, from a seed: whatever a guest asks for, the host must survive and its
//! answers must make sense.
//!
//! `seed=` and `calls=` on the command line (defaults 1 and 1000000). The same seed makes the same calls; `trace=N`
//! prints those from the Nth on, each before it is made. What would end
//! the domain is left out ([`call`]), and so is what would give the kernel's own frames
//! away or have them written to ([`image`]); most frame numbers come from a range that it can spare. Success is: the
//! last call was made, every answer was in range, and the host still answers as at the start.
#![no_std]
#![no_main]
#![expect(
    non_upper_case_globals,
    reason = "hypercall numbers keep Xen's spelling in patterns too"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "registers are cut into halves, addresses are 64-bit"
)]
#![expect(
    clippy::result_large_err,
    reason = "a verdict carries its text: there is no heap"
)]

mod arena;
mod call;
mod image;
mod random;

use arena::Arena;
use guest_abi::xen::__HYPERVISOR_xen_version;
use guest_rt::{
    Test, Verdict, check, check_eq, hypercall, insn, memory, options, report, say, skip, traps,
};
use random::Random;

guest_rt::entry!(main);

fn main() {
    report::run_all(TESTS);
}

static TESTS: &[Test] = &[Test::new("fuzz_hypercalls", run)];

const DEFAULT_CALLS: u64 = 1_000_000;
/// -85, a restart, is Xen's own business and must never be seen.
const RESTART: i64 = -85;

fn run() -> Verdict {
    if !hypercall::present() {
        skip!("no hypervisor");
    }
    let seed = options::number("seed").unwrap_or(1);
    let calls = options::number("calls").unwrap_or(DEFAULT_CALLS);
    let trace_from = options::number("trace").unwrap_or(u64::MAX);
    let Some(spare) = memory::spare_range() else {
        skip!("no spare RAM")
    };
    traps::set_handler(2, Some(|_| ()));
    say!("--- fuzz seed {seed} calls {calls}");
    let arena = Arena::new(spare >> 12);
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    for index in 0..calls {
        let made = call::random(&mut random, &arena);
        if index >= trace_from {
            say!("--- fuzz call {index}: {made:x?}");
        }
        let result = call::make(&made);
        tally.count(result);
        tally.narrow += u64::from(made.is_narrow && result >= 0);
        check!(
            result != RESTART,
            "call {index} of seed {seed}, {made:x?}: restart leaked"
        );
        check!(
            result >= 0 || result > -4096,
            "call {index} of seed {seed}, {made:x?}: {result} is no error number"
        );
        if index % 0x10000 == 0xFFFF {
            still_there(index, seed)?;
            say!("--- fuzz at call {}", index + 1);
        }
    }
    still_there(calls, seed)?;
    check!(
        tally.narrow > calls / 100,
        "{} calls of 32-bit code succeeded",
        tally.narrow
    );
    say!(
        "--- fuzz made {calls} calls: {} succeeded ({} of 32-bit code), {} ENOSYS, {} EFAULT, {} other refusals, digest {:#018x}",
        tally.succeeded,
        tally.narrow,
        tally.enosys,
        tally.efault,
        tally.other,
        tally.digest
    );
    Ok(())
}

/// The host answers as it did, and what is ours is untouched.
fn still_there(index: u64, seed: u64) -> Verdict {
    let version = hypercall::plain(__HYPERVISOR_xen_version, [0, 0]);
    check_eq!(
        version,
        0x0004_0011,
        "xen_version after call {index} of seed {seed}"
    );
    check_eq!(
        insn::cpuid(0x4000_0000, 0).eax,
        0x4000_0005,
        "CPUID after call {index} of seed {seed}"
    );
    check!(
        arena::canary_is_intact(),
        "memory of ours changed by call {index} of seed {seed} or before"
    );
    Ok(())
}

#[derive(Default)]
struct Tally {
    succeeded: u64,
    narrow: u64,
    enosys: u64,
    efault: u64,
    other: u64,
    digest: u64,
}

impl Tally {
    fn count(&mut self, result: i64) {
        match result {
            0.. => self.succeeded += 1,
            -38 => self.enosys += 1,
            -14 => self.efault += 1,
            _ => self.other += 1,
        }
        self.digest = (self.digest ^ result.cast_unsigned()).wrapping_mul(0x100_0000_01B3);
    }
}
