//! Two or three CPUs that do something at once, and what must hold after it in whatever order they came.
//!
//! Built as everything else is, each race is run many times on threads of the host. Built with `--cfg shuttle`, a model
//! checker runs it: at each access to an atomic word and at each lock it decides which CPU goes on, at random first and
//! then by PCT, so that rare orders come as often as others. A failure prints a schedule that replays it
//! (`SHUTTLE_SCHEDULE`). RACE_ROUNDS says how many rounds or schedules each race has.

use std::sync::Arc;

#[cfg(shuttle)]
use super::common::RAM;
use super::common::{destroy_whole, domain, fake, guest_config, known_guest, pcpu, prepare};
use crate::domain::destroy::{self, Progress};
use crate::domain::vcpu::Requests;
use crate::domain::vcpu_frames::VcpuFrames;
use crate::domain::vcpu_state::VcpuState;
use crate::domain::{Domain, Policies, registry, wallclock};
use crate::machine::memory::pool::TablePool;
use crate::machine::memory::{self, SpecialFrame};
use crate::machine::pinned::Pinned;
use crate::main_loop::{CpuMain, Step};
use crate::pcpu::hand_off;
use guest_abi::xen::SHARED_INFO_WC_SEC;
use hv_core::domid::DomId;
use hv_core::mem::SharedWords;
use hv_core::options::Scheduler;
use hv_hw::hosted;
use hv_hw::sync::atomic::{AtomicU32, AtomicU64, Ordering, spin_loop};
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{GuestRegs, SystemRegs, VmExit};
#[cfg(shuttle)]
use shuttle::scheduler::{PctScheduler, RandomScheduler};

/// What the CPUs have in common, what each does (the first is CPU 0), and what must hold then.
struct Race<T: 'static> {
    setup: fn() -> T,
    cpus: &'static [fn(&T)],
    check: fn(T),
}

fn rounds(usual: usize) -> usize {
    let given = std::env::var("RACE_ROUNDS").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

impl<T: Send + Sync + 'static> Race<T> {
    #[cfg(shuttle)]
    fn run(self) {
        let Self { setup, cpus, check } = self;
        let once = move || {
            prepare();
            let board = hosted::board();
            let shared = Arc::new(setup());
            let others: Vec<_> = (1..)
                .zip(&cpus[1..])
                .map(|(number, act)| {
                    let shared = shared.clone();
                    shuttle::thread::spawn(move || {
                        board.join(number);
                        act(&shared);
                    })
                })
                .collect();
            cpus[0](&shared);
            for other in others {
                other.join().unwrap();
            }
            check(Arc::into_inner(shared).expect("the other CPUs are done"));
            memory::zero(RAM);
            board.retire();
        };
        let mut config = shuttle::Config::new();
        // a machine is built on it
        config.stack_size = 4 << 20;
        let random = RandomScheduler::new(rounds(100));
        shuttle::Runner::new(random, config.clone()).run(once);
        let pct = PctScheduler::new(3, rounds(100));
        shuttle::Runner::new(pct, config).run(once);
    }

    #[cfg(not(shuttle))]
    fn run(self) {
        prepare();
        let Self { setup, cpus, check } = self;
        let board = hosted::board();
        for _ in 0..rounds(300) {
            let shared = setup();
            let start = std::sync::Barrier::new(cpus.len());
            std::thread::scope(|scope| {
                for (number, act) in (1..).zip(&cpus[1..]) {
                    let (start, shared) = (&start, &shared);
                    scope.spawn(move || {
                        board.join(number);
                        start.wait();
                        act(shared);
                    });
                }
                start.wait();
                cpus[0](&shared);
            });
            check(shared);
        }
    }
}

fn new_main() -> CpuMain<FakeVcpu> {
    CpuMain::new(pcpu(), Scheduler::Credit2, sleeping)
}

/// A guest that halts, whenever it is woken.
fn sleeping(domain: &Domain, index: usize, parts: &VcpuFrames, policies: &Policies) -> FakeVcpu {
    let mut hw = fake(domain, index, parts, policies);
    hw.system.rflags = 0x202;
    hw.endless = Some(|_| VmExit::Hlt);
    hw.must_be_loaded = true;
    hw
}

#[test]
fn pause_that_meets_an_unpause_is_not_lost() {
    Race {
        setup: known_guest,
        cpus: &[
            |guest| guest.unpause().unwrap(),
            |guest| guest.pause().unwrap(),
        ],
        check: |guest| {
            assert!(guest.is_stopped(), "one pause is open");
            destroy_whole(&guest, &mut new_main());
        },
    }
    .run();
}

#[test]
fn of_two_vcpus_that_go_down_at_once_one_hears_that_all_are_down() {
    struct Down {
        domain: Arc<Domain>,
        heard: AtomicU32,
    }
    fn go_down(down: &Down, index: usize) {
        let Down { domain, heard } = down;
        domain.vcpus[index].is_up.store(false, Ordering::Release);
        if domain.is_every_vcpu_down() {
            heard.fetch_add(1, Ordering::SeqCst);
        }
    }
    Race {
        setup: || {
            let domain = domain(7, guest_config(2));
            for vcpu in &domain.vcpus {
                vcpu.is_up.store(true, Ordering::SeqCst);
            }
            Down {
                domain,
                heard: AtomicU32::new(0),
            }
        },
        cpus: &[|down| go_down(down, 0), |down| go_down(down, 1)],
        check: |down| {
            assert!(down.heard.load(Ordering::SeqCst) > 0);
            destroy_whole(&down.domain, &mut new_main());
        },
    }
    .run();
}

#[test]
fn vcpu_is_made_once_whoever_asks() {
    Race {
        setup: known_guest,
        cpus: &[
            |guest| hand_off::spawn(guest, 0).unwrap(),
            |guest| hand_off::spawn(guest, 0).unwrap(),
        ],
        check: |guest| {
            let hand_offs = pcpu().take_hand_offs();
            assert_eq!(hand_offs.len(), 1);
            for hand_off in hand_offs {
                hand_off::send(0, hand_off);
            }
            destroy_whole(&guest, &mut new_main());
        },
    }
    .run();
}

#[test]
fn destruction_meets_the_making_of_a_vcpu_and_leaves_none() {
    Race {
        setup: known_guest,
        cpus: &[
            |guest| while destroy::step(guest, &mut FakeVcpu::default()) == Progress::More {},
            |guest| {
                let _made_or_too_late = hand_off::spawn(guest, 0);
            },
        ],
        check: |guest| {
            let (id, frames) = (guest.id, memory::free_frames());
            destroy_whole(&guest, &mut new_main());
            assert_eq!(guest.runners.load(Ordering::SeqCst), 0);
            assert!(pcpu().take_hand_offs().is_empty());
            assert!(memory::free_frames() >= frames);
            assert!(registry::find(id).is_none());
        },
    }
    .run();
}

/// Whoever wants something of a vCPU that is about to wait, or waits, or was just woken, is heard.
#[test]
fn request_to_a_vcpu_that_falls_asleep_is_not_lost() {
    struct Sleeper {
        guest: Arc<Domain>,
        /// CPUs that have asked for all that they will.
        asked: AtomicU32,
    }
    fn ask(sleeper: &Sleeper) {
        for _ in 0..2 {
            sleeper.guest.vcpus[0].request(Requests::NMI);
        }
        sleeper.asked.fetch_add(1, Ordering::SeqCst);
    }
    Race {
        setup: || {
            let guest = known_guest();
            let state = VcpuState::starting(GuestRegs::default(), SystemRegs::default());
            guest.vcpus[0].set_state(state);
            hand_off::spawn(&guest, 0).unwrap();
            guest.unpause().unwrap();
            Sleeper {
                guest,
                asked: AtomicU32::new(0),
            }
        },
        cpus: &[
            |sleeper| {
                let mut main = new_main();
                // as long as it is not idle after all was asked
                loop {
                    let is_last = sleeper.asked.load(Ordering::SeqCst) == 2;
                    while main.step() != Step::Idle || main.is_woken() {}
                    if is_last {
                        break;
                    }
                    spin_loop();
                }
                assert!(!sleeper.guest.vcpus[0].has_requests());
                assert!(!pcpu().is_anybody_kicked(), "a kick is counted for ever");
                destroy_whole(&sleeper.guest, &mut main);
            },
            ask,
            ask,
        ],
        check: |_| {},
    }
    .run();
}

/// A zombie goes with the last use of its pages, also where that ends while it is destroyed.
#[test]
fn last_use_of_a_page_ends_while_its_domain_is_destroyed() {
    struct Dying {
        guest: Arc<Domain>,
        used: hv_hw::sync::RankedLock<Option<(Pinned, SpecialFrame)>, 1>,
    }
    fn look() {
        if pcpu().take_zombie_work() {
            destroy::reap();
        }
    }
    Race {
        setup: || {
            let guest = known_guest();
            let page = SpecialFrame::alloc(guest.id).unwrap();
            let used = Pinned::new(page.mfn(), guest.id).unwrap();
            Dying {
                guest,
                used: hv_hw::sync::RankedLock::new(Some((used, page))),
            }
        },
        cpus: &[
            |dying| {
                destroy_whole(&dying.guest, &mut new_main());
                look();
            },
            |dying| {
                let used = dying.used.lock().take();
                drop(used);
                look();
            },
        ],
        check: |dying| {
            let id = dying.guest.id;
            assert_eq!(memory::charged(id), 1, "its shared info");
            assert!(registry::find(id).is_none(), "nobody reaped it");
            drop(dying);
            assert_eq!(memory::charged(id), 0);
        },
    }
    .run();
}

#[test]
fn accounts_claims_and_pools_of_three_cpus_never_promise_more_than_there_is() {
    struct Purse {
        account: DomId,
        charged: AtomicU64,
        claims: [AtomicU64; 3],
        pools: [TablePool; 3],
        most: u64,
    }
    fn take(purse: &Purse, cpu: usize) {
        for _ in 0..2 {
            if memory::charge_ram(purse.account, 3, 7) {
                purse.charged.fetch_add(3, Ordering::SeqCst);
            }
        }
        let _ = memory::set_claim(&purse.claims[cpu], purse.most / 2);
        let _ = purse.pools[cpu].resize(purse.most / 3);
        let promised = memory::claimed_frames() + memory::pool::set_aside();
        assert!(promised <= purse.most, "{promised} of {}", purse.most);
        let _ = memory::set_claim(&purse.claims[cpu], 0);
    }
    Race {
        setup: || Purse {
            account: DomId::new(77).unwrap(),
            charged: AtomicU64::new(0),
            claims: [const { AtomicU64::new(0) }; 3],
            pools: [const { TablePool::new() }; 3],
            most: memory::free_frames(),
        },
        cpus: &[
            |purse| take(purse, 0),
            |purse| take(purse, 1),
            |purse| take(purse, 2),
        ],
        check: |purse| {
            let charged = purse.charged.load(Ordering::SeqCst);
            assert_eq!((memory::ram_of(purse.account), charged), (6, 6));
            memory::uncharge_ram(purse.account, charged);
            assert_eq!(memory::claimed_frames(), 0);
            drop(purse);
            assert_eq!(memory::pool::set_aside(), 0);
        },
    }
    .run();
}

/// Of two who set the time at once, each domain sees what the second of them set.
#[test]
fn time_of_day_that_two_set_at_once_is_one_for_all() {
    fn told(guest: &Domain) -> u32 {
        guest.shared_info.load_u32(SHARED_INFO_WC_SEC)
    }
    Race {
        setup: || [known_guest(), known_guest()],
        cpus: &[
            |_| wallclock::set(1_000_000, 0, 0).unwrap(),
            |_| wallclock::set(2_000_000, 0, 0).unwrap(),
        ],
        check: |guests| {
            let [one, other] = &guests;
            assert_eq!(told(one), told(other));
            for guest in &guests {
                let seen = told(guest);
                wallclock::tell(guest);
                assert_eq!(told(guest), seen, "not what was set last");
                destroy_whole(guest, &mut new_main());
            }
        },
    }
    .run();
}
