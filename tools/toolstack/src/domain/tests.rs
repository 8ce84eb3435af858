//! Verbs on domains, over the doubles.

use std::time::Duration;

use guest_abi::hvm::params::HVM_PARAM_CALLBACK_IRQ;
use xenstore::Ops;

use super::*;
use crate::testing::Bench;

fn named(bench: &Bench, name: &str) -> u16 {
    let domid = bench.host.make_domain();
    bench
        .ts
        .store
        .write(&format!("{}/name", path(domid)), name)
        .unwrap();
    domid
}

#[test]
fn the_reason_of_a_shutdown_is_in_the_flags() {
    let flags = XEN_DOMINF_shutdown | 3 << XEN_DOMINF_shutdownshift | XEN_DOMINF_paused;
    let state = DomainState::from_flags(flags);
    assert_eq!(
        state,
        DomainState {
            paused: true,
            shutdown: Some(3),
            ..Default::default()
        }
    );
    assert_eq!(
        DomainState::from_flags(XEN_DOMINF_blocked | 3 << 16).shutdown,
        None
    );
}

#[test]
fn domains_are_found_by_id_uuid_and_name() {
    let bench = Bench::new();
    let domid = named(&bench, "web");
    for text in ["1", "01010101-0101-0101-0101-010101010101", "web"] {
        assert_eq!(bench.ts.find(text).unwrap().domid, domid, "{text}");
    }
    for text in ["7", "mail", "01010101-0101-0101-0101-010101010102"] {
        let error = bench.ts.find(text).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("Domain '{text}' does not exist.")
        );
    }
    assert_eq!(bench.ts.find("Domain-0").unwrap().domid, 0);
}

#[test]
fn a_guest_that_hears_is_done_and_one_that_does_not_is_told() {
    let bench = Bench::new();
    let domid = named(&bench, "web");
    let ask = || {
        bench
            .ts
            .ask(domid, Shutdown::Poweroff, Duration::from_millis(30))
            .map_err(|error| error.chain())
    };
    assert_eq!(
        ask().unwrap_err(),
        "domain 1 has no drivers that could hear of a poweroff (yet)"
    );
    bench
        .ts
        .hyper
        .set_param(domid, HVM_PARAM_CALLBACK_IRQ, 1)
        .unwrap();
    assert_eq!(
        ask().unwrap_err(),
        "domain 1 did not acknowledge the poweroff within 0 s"
    );
    assert_eq!(
        bench
            .store
            .get("/local/domain/1/control/shutdown")
            .as_deref(),
        Some("")
    );
    bench
        .store
        .state()
        .reactions
        .push(["/shutdown", "poweroff", "/shutdown", ""]);
    ask().unwrap();
    assert!(bench.ts.ask(0, Shutdown::Reboot, Duration::ZERO).is_err());
}

#[test]
fn a_name_belongs_to_one_domain() {
    let bench = Bench::new();
    let (first, second) = (named(&bench, "web"), named(&bench, "mail"));
    let taken = bench
        .ts
        .rename(&bench.lock(), second, "web")
        .unwrap_err()
        .chain();
    assert_eq!(taken, "domain 1 has the name \"web\" already");
    assert!(bench.ts.rename(&bench.lock(), second, "77").is_err());
    bench.ts.rename(&bench.lock(), first, "www").unwrap();
    bench.ts.rename(&bench.lock(), second, "web").unwrap();
    assert_eq!(bench.ts.find("web").unwrap().domid, second);
}

#[test]
fn more_memory_than_a_domain_may_have_is_refused() {
    let bench = Bench::new();
    let mut config = bench.config("web");
    config.max_memory_kib = 64 << 10;
    let domid = bench.create(&config).unwrap().domid;
    bench.ts.set_memory_target(domid, 64 << 10).unwrap();
    let refused = |kib| bench.ts.set_memory_target(domid, kib).unwrap_err().chain();
    assert_eq!(
        refused(65 << 10),
        "66560 KiB is above the domain's maximum of 65536 KiB (xl mem-max changes it)"
    );
    assert_eq!(bench.ts.memory_target(domid).unwrap(), Some(64 << 10));
    // of one whose configuration was not kept, xenstore tells what it started with
    bench.ts.forget_config(domid, config.uuid).unwrap();
    assert!(refused(65 << 10).contains("maximum of 65536 KiB"));
}

#[test]
fn dom0_is_not_asked_to_go_below_what_it_lives_by() {
    let bench = Bench::new();
    let refused = bench.ts.set_memory_target(0, (128 << 10) - 1).unwrap_err();
    assert_eq!(
        refused.chain(),
        "131071 KiB is below the 131072 KiB that dom0 needs"
    );
    assert_eq!(bench.ts.memory_target(0).unwrap(), None);
    bench.ts.set_memory_target(0, 128 << 10).unwrap();
    assert_eq!(bench.ts.memory_target(0).unwrap(), Some(128 << 10));
}

#[test]
fn memory_and_vcpus_are_asked_for_in_xenstore() {
    let bench = Bench::new();
    let domid = named(&bench, "web");
    bench.ts.set_memory_target(domid, 65536).unwrap();
    assert_eq!(bench.ts.memory_target(domid).unwrap(), Some(65536));
    let low = bench.ts.set_memory_max(domid, 32768).unwrap_err().chain();
    assert_eq!(
        low,
        "32768 KiB is below the domain's present target of 65536 KiB"
    );
    let many = bench.ts.set_vcpus(domid, 2).unwrap_err().chain();
    assert_eq!(many, "domain 1 can have 1 to 1 vCPUs, not 2");
    bench.ts.set_vcpus(domid, 1).unwrap();
    assert_eq!(
        bench
            .store
            .get("/local/domain/1/cpu/0/availability")
            .as_deref(),
        Some("online")
    );
}
