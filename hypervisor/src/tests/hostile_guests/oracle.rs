//! What must hold: of mappings at any time, of a domain at its end, of what was logged.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::Domain;
use crate::domain::destroy::{self, Progress};
use crate::machine::memory;
use crate::main_loop::CpuMain;
use hv_core::addr::{Gfn, Mfn};
use hv_core::frame::{Owner, Role};
use hv_core::p2m::P2mKind;
use hv_hw::console::{self, HistoryStart};
use hv_hw::direct_map::DirectTables;
use hv_hw::virt::fake::FakeVcpu;

/// Guest frames beyond all that these tests map.
const GFN_END: u64 = 600;

/// Every mapping of a frame holds a use of it, no mapped frame is free, and own memory is one's own.
pub(crate) fn check_mappings(domains: &[&Arc<Domain>], what: &str) {
    let mut mappings: HashMap<u64, u32> = HashMap::new();
    for domain in domains {
        let p2m = domain.p2m.lock();
        for gfn in (0..GFN_END).map(Gfn::new) {
            let Some(entry) = p2m.lookup(&DirectTables, gfn) else {
                continue;
            };
            if entry.kind == P2mKind::Mmio {
                continue;
            }
            *mappings.entry(entry.mfn.as_u64()).or_default() += 1;
            check_frame(domain, (gfn, entry.mfn, entry.kind), what);
        }
    }
    for (mfn, count) in mappings {
        let uses = memory::table().state(Mfn::new(mfn)).uses;
        assert!(
            uses >= count,
            "{what}: frame {mfn:#x} has {uses} uses and is mapped {count} times"
        );
    }
}

fn check_frame(domain: &Domain, (gfn, mfn, kind): (Gfn, Mfn, P2mKind), what: &str) {
    let state = memory::table().state(mfn);
    let place = format!("{what}: {gfn} of {} is {kind:?}", domain.id);
    assert_ne!(state.owner, Owner::Nobody, "{place} of a free frame");
    match kind {
        P2mKind::Ram => assert_eq!(
            (state.owner, state.role),
            (Owner::Domain(domain.id), Some(Role::Ram)),
            "{place}"
        ),
        P2mKind::GrantRw | P2mKind::GrantRo => assert_eq!(state.role, Some(Role::Ram), "{place}"),
        _ => {}
    }
}

/// Destroys a domain step by step, while what others have of it is looked at.
pub(crate) fn end(domain: Arc<Domain>, main: &mut CpuMain<FakeVcpu>, others: &[&Arc<Domain>]) {
    let id = domain.id;
    let mut hw = FakeVcpu::default();
    for step in 0..10_000 {
        match destroy::step(&domain, &mut hw) {
            Progress::Done => {
                drop(domain);
                destroy::reap();
                return;
            }
            Progress::More => {}
            Progress::WaitForCpus => {
                let _ = main.step();
            }
        }
        if step % 4 == 0 {
            check_mappings(others, "in destruction");
        }
    }
    panic!("destruction of {id} does not end");
}

/// No line of the log says that a rule was broken.
pub(crate) fn check_log(seed: u64) {
    const BROKEN: [&str; 3] = ["was not mapped", "gone before", "does not stop"];
    let mut text = vec![0; 1 << 16];
    let start = console::history_position(HistoryStart::Oldest);
    let (_, length) = console::copy_history(start, &mut text);
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    let bad = text
        .lines()
        .find(|line| BROKEN.iter().any(|bad| line.contains(bad)));
    assert_eq!(bad, None, "seed {seed}");
}
