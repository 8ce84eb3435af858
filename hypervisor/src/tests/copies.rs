//! What hypercalls read and write in the guest's memory: where it goes, and that a hypercall in pieces is done whole.

use crate::exit;
use crate::guest_mem::SoftwareTlb;
use crate::machine::memory::Tables;
use crate::runner::Runner;
use crate::tests::common::{RIP, give_ram, one_vcpu};
use guest_abi::errno::Errno;
use guest_abi::xen::{
    __HYPERVISOR_console_io, __HYPERVISOR_multicall, CONSOLEIO_write, MulticallEntry,
};
use hv_core::addr::{Gfn, Gva};
use hv_core::mem::SharedWords;
use hv_hw::direct_map::{DirectTables, SharedFrame};
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{ControlRegister, Event, VcpuHw, VmExit};
use proptest::prelude::*;
use zerocopy::IntoBytes;

#[test]
fn entry_of_a_multicall_that_has_more_to_do_is_executed_again() {
    let (mut runner, mut pcpu) = one_vcpu();
    let ram = give_ram(&runner.domain, 4);
    let mut entry = MulticallEntry {
        op: __HYPERVISOR_console_io,
        ..Default::default()
    };
    entry.args[..3].copy_from_slice(&[u64::from(CONSOLEIO_write), 3 * 4096, 4096]);
    ram[0].write_bytes(0, entry.as_bytes());
    let regs = runner.hw.regs();
    regs.set_rax(__HYPERVISOR_multicall);
    regs.set_rdi(0);
    regs.set_rsi(1);
    let mut executions = 0;
    while runner.hw.rip() == RIP {
        let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hypercall);
        executions += 1;
        assert!(executions < 100);
    }
    assert!(executions > 1);
    assert_eq!(runner.hw.regs().rax(), 0);
    ram[0].read_bytes(0, entry.as_mut_bytes());
    assert_eq!(entry.result, 0);
}

#[test]
fn top_entry_with_a_reserved_bit_keeps_paging_off() {
    const PAE: u64 = 1 << 5;
    const PAGING: u64 = 0x8000_0011;
    let (mut runner, mut pcpu) = one_vcpu();
    let ram = give_ram(&runner.domain, 1);
    runner.hw.system.cr0 = 0x11;
    runner.hw.system.cr4 = PAE;
    let write = VmExit::ControlWrite {
        register: ControlRegister::Cr0,
        value: Some(PAGING),
    };
    ram[0].store_u64(8, 0x1000 | 3);
    let _ = exit::handle(&mut runner, &mut pcpu, write);
    assert_eq!(runner.raised.take(), Some(Event::PROTECTION));
    assert_eq!(runner.hw.system.cr0, 0x11);
    ram[0].store_u64(8, 0x1000 | 1);
    let _ = exit::handle(&mut runner, &mut pcpu, write);
    assert_eq!((runner.raised, runner.hw.system.cr0), (None, PAGING));
}

/// An edit of one of five page tables, each of which may stand for any level; a copy through four of their entries.
#[derive(Clone, Debug)]
enum PagingStep {
    Edit {
        table: usize,
        index: usize,
        entry: u64,
    },
    Copy {
        indices: [u64; 4],
        is_write: bool,
    },
    Control {
        cr3: u64,
        has_write_protect: bool,
    },
    Unmap,
}

const TABLES: usize = 5;
const INDICES: usize = 3;

fn paging_step() -> impl Strategy<Value = PagingStep> {
    let entry = (0..8u64, prop::sample::select(vec![0u64, 1, 3, 3, 3, 0x83]));
    prop_oneof![
        4 => (0..TABLES, 0..INDICES, entry).prop_map(|(table, index, (frame, bits))| {
            PagingStep::Edit { table, index, entry: frame << 12 | bits }
        }),
        6 => (prop::array::uniform4(0..INDICES as u64), any::<bool>())
            .prop_map(|(indices, is_write)| PagingStep::Copy { indices, is_write }),
        1 => (0..TABLES as u64, any::<bool>()).prop_map(|(table, has_write_protect)| {
            PagingStep::Control { cr3: table << 12, has_write_protect }
        }),
        1 => Just(PagingStep::Unmap),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn copy_goes_where_a_walk_would_whatever_was_remembered(
        steps in prop::collection::vec(paging_step(), 1..200),
    ) {
        let (mut runner, _) = one_vcpu();
        let ram = give_ram(&runner.domain, 8);
        // entry n of each table leads to the next table, or a page
        for (level, table) in ram.iter().enumerate().take(TABLES) {
            for index in 0..INDICES {
                table.store_u64(index * 8, (level as u64 + 1) << 12 | 3);
            }
        }
        for (number, frame) in ram.iter().enumerate() {
            frame.store_u64(0x800, number as u64);
        }
        runner.hw.system.efer = 0x500;
        runner.hw.system.cr0 = 0x8000_0011;
        for step in steps {
            match step {
                PagingStep::Edit { table, index, entry } => ram[table].store_u64(index * 8, entry),
                PagingStep::Control { cr3, has_write_protect } => {
                    runner.hw.system.cr3 = cr3;
                    runner.hw.system.cr0 = 0x8000_0011 | u64::from(has_write_protect) << 16;
                }
                PagingStep::Unmap => {
                    // a change of the p2m that changes nothing: the TLB starts over
                    let mut p2m = runner.domain.p2m.lock();
                    let gone = p2m.remove((&mut DirectTables, &mut Tables), Gfn::new(99), 1, |_, _| {});
                    let _ = gone.unwrap().completed();
                }
                PagingStep::Copy { indices, is_write } => {
                    let [a, b, c, d] = indices;
                    let at = Gva::new(a << 39 | b << 30 | c << 21 | d << 12 | 0x800);
                    let fresh = SoftwareTlb::new(runner.domain.shared_info);
                    let remembered = copy(&runner, &ram, at, is_write);
                    let kept = core::mem::replace(&mut runner.tlb, fresh);
                    prop_assert_eq!(remembered, copy(&runner, &ram, at, is_write));
                    runner.tlb = kept;
                }
            }
        }
    }
}

/// Which frame a copy reaches.
fn copy(
    runner: &Runner<FakeVcpu>,
    ram: &[SharedFrame],
    at: Gva,
    is_write: bool,
) -> Result<u64, Errno> {
    const MARK: u64 = 0x1234_5678;
    if !is_write {
        return runner.copy_in(at);
    }
    runner.copy_out(at + 8, &MARK)?;
    let number = ram.iter().position(|frame| frame.load_u64(0x808) == MARK);
    let number = number.expect("it went to the domain's memory");
    ram[number].store_u64(0x808, 0);
    Ok(number as u64)
}
