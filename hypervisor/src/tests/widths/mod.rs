//! Hypercalls of 64-bit and of 32-bit code: the same sequence of calls by both has the same outcome.
#![expect(
    clippy::cast_possible_truncation,
    reason = "results are compared as 32-bit code sees them"
)]

mod calls;
mod grants;
mod memory;
mod vcpus;

use hv_hw::sync::atomic::Ordering;

use crate::domain::create::{self, DomainResources};
use crate::domain::destroy::{self, Progress};
use crate::domain::vcpu_frames::VcpuFrames;
use crate::domain::vcpu_state::VcpuState;
use crate::domain::{ShutdownReason, registry, space};
use crate::exit;
use crate::main_loop::CpuMain;
use crate::pcpu::Pcpu;
use crate::pcpu::hand_off::{self, HandOff};
use crate::runner::{Activity, Runner, make};
use crate::tests::common::{RIP, fake, give_ram, guest_config, pcpu, prepare};
use guest_abi::compat::{Compat, Width, XenUlong};
use guest_abi::errno::Errno;
use guest_abi::event_channel::*;
use guest_abi::grant_table::*;
use guest_abi::hvm::hvm_op::*;
use guest_abi::hvm::hvm_vcpu::{VCPU_HVM_MODE_32B, VcpuHvmContext, VcpuHvmX8632};
use guest_abi::hvm::params::*;
use guest_abi::memory::*;
use guest_abi::sched::{
    SCHEDOP_poll, SCHEDOP_shutdown, SCHEDOP_watchdog, SHUTDOWN_watchdog, SchedPoll, SchedShutdown,
    SchedWatchdog,
};
use guest_abi::vcpu::*;
use guest_abi::version::*;
use guest_abi::xen::*;
use hv_core::addr::Gfn;
use hv_core::mem::SharedWords;
use hv_core::options::Scheduler;
use hv_hw::direct_map::SharedFrame;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{SEGMENT_CS, SEGMENT_SS, VcpuHw, VmExit};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

const FRAMES: u64 = 16;
/// Where arguments, arrays, and what grants and areas are, begin: a frame each.
const ARGS: u64 = 0x1000;
const ARRAY: u64 = 0x2000;
const SHARED: u64 = 0x3000;
const AREA: u64 = 0x4000;
const TABLE: u64 = 0x5000;

/// A guest with one vCPU that runs code of one width, without paging.
struct Guest {
    width: Width,
    runner: Runner<FakeVcpu>,
    pcpu: Pcpu,
    ram: Vec<SharedFrame>,
}

impl Guest {
    fn new(width: Width) -> Self {
        crate::tests::common::prepare();
        let number = registry::reserve(None).unwrap();
        let own = DomainResources::none().unwrap();
        let domain = create::domain(number.id(), guest_config(2), own);
        let domain = std::sync::Arc::new(domain.unwrap_or_else(|errno| panic!("{errno:?}")));
        registry::add(domain.clone());
        domain.limits.max_pages.store(64, Ordering::Relaxed);
        let mut pcpu = pcpu();
        let hand_off = HandOff {
            domain: domain.clone(),
            index: 0,
            parts: VcpuFrames::alloc().unwrap(),
        };
        let mut runner = make::runner(hand_off, &mut pcpu, fake);
        runner.activity = Activity::Ready;
        if width == Width::Bits32 {
            runner.hw.system.segments[SEGMENT_CS].access = 0;
        }
        let ram = give_ram(&domain, FRAMES);
        Self {
            width,
            runner,
            pcpu,
            ram,
        }
    }

    /// Lays `value` out at `at` as this guest has it; returns `at`.
    fn put<T: Compat>(&self, at: u64, value: T) -> u64 {
        match self.width {
            Width::Bits64 => self.put_bytes(at, value.as_bytes()),
            Width::Bits32 => self.put_bytes(at, value.narrow().as_bytes()),
        }
        at
    }

    fn put_all<T: Compat>(&self, at: u64, values: &[T]) -> u64 {
        for (index, value) in (0..).zip(values) {
            self.put(at + index * T::bytes(self.width) as u64, *value);
        }
        at
    }

    fn put_bytes(&self, at: u64, bytes: &[u8]) {
        self.frame(at).write_bytes((at & 0xFFF) as usize, bytes);
    }

    fn get<T: Compat>(&self, at: u64) -> T {
        match self.width {
            Width::Bits64 => self.get_plain(at),
            Width::Bits32 => T::widen(self.get_plain(at)),
        }
    }

    fn get_plain<T: FromBytes + IntoBytes>(&self, at: u64) -> T {
        let mut value = T::new_zeroed();
        let offset = (at & 0xFFF) as usize;
        self.frame(at).read_bytes(offset, value.as_mut_bytes());
        value
    }

    fn frame(&self, at: u64) -> SharedFrame {
        self.ram[(at >> 12) as usize]
    }

    /// Executes a hypercall to its end, with junk in all registers that are no argument; its result as a signed number.
    fn call(&mut self, number: u64, args: [u64; 5]) -> i64 {
        const PLACES: [[usize; 5]; 2] = [[7, 6, 2, 10, 8], [3, 1, 2, 6, 7]];
        let junk = 0xDEAD_0000_0000_0000;
        let regs = self.runner.hw.regs();
        regs.gpr = [junk | 0xBAD; 16];
        let narrow = self.width == Width::Bits32;
        regs.set_rax(if narrow { junk | number } else { number });
        for (place, arg) in PLACES[usize::from(narrow)].into_iter().zip(args) {
            regs.gpr[place] = if narrow { junk | arg } else { arg };
        }
        let before = self.runner.hw.registers;
        self.runner.hw.system.rip = RIP;
        for _ in 0..1000 {
            let _ = exit::handle(&mut self.runner, &mut self.pcpu, VmExit::Hypercall);
            if self.runner.hw.rip() != RIP {
                let after = self.runner.hw.registers;
                for place in (1..16).filter(|place| !PLACES[usize::from(narrow)].contains(place)) {
                    assert_eq!(after.gpr[place], before.gpr[place], "register {place}");
                }
                let [a, b, c, d, ..] = after.rax().to_le_bytes();
                return match self.width {
                    Width::Bits64 => after.rax().cast_signed(),
                    Width::Bits32 => i32::from_le_bytes([a, b, c, d]).into(),
                };
            }
        }
        panic!("hypercall {number} does not end");
    }

    /// Calls with a structure at [`ARGS`] as second argument; the result, and the structure then.
    fn with<T: Compat>(&mut self, number: u64, op: u32, value: T) -> (i64, T) {
        let at = self.put(ARGS, value);
        let result = self.call(number, [op.into(), at, 0, 0, 0]);
        (result, self.get(ARGS))
    }

    /// Calls for an array of structures at [`ARGS`].
    fn array<T: Compat>(&mut self, op: u32, values: &[T]) -> (i64, Vec<T>) {
        let at = self.put_all(ARGS, values);
        let count = values.len() as u64;
        let result = self.call(__HYPERVISOR_grant_table_op, [op.into(), at, count, 0, 0]);
        let place = |index: u64| at + index * T::bytes(self.width) as u64;
        (
            result,
            (0..count).map(|index| self.get(place(index))).collect(),
        )
    }

    fn of_vcpu<T: Compat>(&mut self, op: u32, vcpu: u64, value: T) -> (i64, T) {
        let at = self.put(ARGS, value);
        let result = self.call(__HYPERVISOR_vcpu_op, [op.into(), vcpu, at, 0, 0]);
        (result, self.get(ARGS))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let domain = self.runner.domain.clone();
        let mut hw = FakeVcpu::default();
        while destroy::step(&domain, &mut hw) == Progress::More {}
    }
}

/// Runs `calls` in a guest of each width; the outcomes are the same, and the last one's is returned.
fn alike<T: PartialEq + std::fmt::Debug>(calls: impl Fn(&mut Guest) -> T) -> T {
    prepare();
    let wide = calls(&mut Guest::new(Width::Bits64));
    let narrow = calls(&mut Guest::new(Width::Bits32));
    assert_eq!(wide, narrow);
    wide
}

fn refused(errno: Errno) -> i64 {
    errno.to_rax().cast_signed()
}
