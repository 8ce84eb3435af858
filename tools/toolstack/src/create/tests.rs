//! All steps of a creation over the doubles: what comes out, and that nothing stays when a step fails.

use super::*;
use crate::Autoballoon;
use crate::config::{DiskConfig, DiskFormat, DiskSource, VifConfig};
use crate::testing::Bench;

/// Served by another domain, so that nothing of this machine is needed.
fn with_devices(bench: &Bench) -> DomainConfig {
    let mut config = bench.config("web");
    config.disks.push(DiskConfig {
        target: "/images/web".into(),
        source: DiskSource::Auto,
        format: DiskFormat::Raw,
        vdev: "xvda".to_owned(),
        writable: true,
        shared: false,
        cdrom: false,
        direct_io_safe: false,
        discard: None,
        script: None,
        backend: Some("1".to_owned()),
    });
    config.vifs.push(VifConfig {
        backend: Some("1".to_owned()),
        ..Default::default()
    });
    config
}

/// What is told while a domain is made, in order.
const STEPS: [&str; 20] = [
    "checking the name",
    "reading the kernel",
    "reading the initrd",
    "planning the memory",
    "making room for it",
    "making the domain",
    "making vCPUs",
    "claiming memory",
    "making event channels",
    "giving it memory",
    "loading the image",
    "setting its CPU policy",
    "setting up its first vCPU",
    "setting its parameters",
    "publishing it in xenstore",
    "introducing it to xenstored",
    "attaching its disks",
    "attaching its network cards",
    "keeping its configuration",
    "letting it run",
];

#[test]
fn each_step_is_told_when_it_begins() {
    let mut bench = Bench::new();
    let held = bench.lock();
    let mut told = Vec::new();
    let mut create = |ts: &Toolstack, config: &DomainConfig, options| {
        told.clear();
        let created = ts.create_telling(&held, config, options, &mut |step| {
            told.push(step.to_owned());
        });
        (created, told.clone())
    };
    let (created, told) = create(&bench.ts, &bench.config("web"), Options::default());
    assert_eq!(told, STEPS);
    let timed: Vec<_> = created
        .unwrap()
        .timings
        .0
        .iter()
        .map(|(step, _)| *step)
        .collect();
    assert_eq!(timed, STEPS);
    let (_, told) = create(&bench.ts, &bench.config("db"), Options { paused: true });
    assert_eq!(told, STEPS[..19]);
    // the step that fails is the last that is told
    bench.ts.autoballoon = Autoballoon::Off;
    bench.host.state().free_pages = 0;
    let mut config = bench.config("big");
    config.claim = true;
    let (failed, told) = create(&bench.ts, &config, Options::default());
    assert!(
        failed
            .unwrap_err()
            .chain()
            .contains("claiming memory: not enough memory")
    );
    assert_eq!(told, STEPS[..8]);
}

#[test]
fn a_domain_is_made_of_its_configuration() {
    let bench = Bench::new();
    let driver = bench.host.make_domain();
    let config = with_devices(&bench);
    let created = bench.create(&config).unwrap();
    let domid = created.domid;
    assert!(domid > driver);
    let state = bench.host.state();
    let domain = &state.domains[&domid];
    assert!(domain.running);
    assert_eq!(domain.populated.len(), 32 * 256 + 1 + 2);
    assert_eq!(domain.claimed, 0);
    // the kernel's code, its one non-zero page of data, and what EBX points at
    assert_eq!(domain.read(0x100_0000, 4), [1, 2, 3, 4]);
    assert_eq!(domain.read(0x100_4000 + 3 * 4096 + 7, 1), [9]);
    assert_eq!(domain.read(0x100_d000, 4), 0x336e_c578u32.to_le_bytes());
    assert_eq!(domain.read(0xFC00_0000, 8), *b"RSD PTR ");
    // console and xenstore pages are granted to domain 0
    assert_eq!(
        domain.grants(16),
        [
            1, 0, 0, 0, 0xff, 0xef, 0x0f, 0, 1, 0, 0, 0, 0xfc, 0xef, 0x0f, 0
        ]
    );
    assert_eq!(domain.params[&HVM_PARAM_STORE_PFN], 0xFEFFC);
    assert_eq!(domain.params[&HVM_PARAM_CONSOLE_EVTCHN], 2);
    assert_eq!(domain.map.len(), 3 * 20);
    drop(state);
    let base = format!("/local/domain/{domid}");
    let node = |name: &str| bench.store.get(&format!("{base}/{name}")).unwrap();
    assert_eq!(
        (
            node("name").as_str(),
            node("store/port").as_str(),
            node("console/ring-ref").as_str()
        ),
        ("web", "1", "1044479")
    );
    assert_eq!(node("memory/target"), "32768");
    assert_eq!(
        node("device/vbd/51712/backend"),
        format!("/local/domain/{driver}/backend/vbd/{domid}/51712")
    );
    assert_eq!(
        node("device/vif/0/mac"),
        created.config.vifs[0].mac.unwrap().to_string()
    );
    let perms = |path: &str| bench.store.state().tree[path].1.clone();
    assert_eq!(perms(&base), format!("n0\0r{domid}\0").into_bytes());
    assert_eq!(
        perms(&format!("{base}/data")),
        format!("n{domid}\0").into_bytes()
    );
    assert!(bench.store.state().introduced.contains(&domid));
    assert_eq!(
        bench.ts.kept_config(domid).unwrap().unwrap(),
        created.config
    );
}

#[test]
fn a_destroyed_domain_leaves_nothing() {
    let bench = Bench::new();
    bench.host.make_domain();
    let before: Vec<String> = bench.store.state().tree.keys().cloned().collect();
    let created = bench.create(&with_devices(&bench)).unwrap();
    bench.ts.destroy(created.domid).unwrap();
    assert_nothing_left(&bench, 2, &before);
    let again = bench.ts.destroy(created.domid).unwrap_err();
    assert!(matches!(again, Error::NoDomain(_)));
}

#[test]
fn whichever_hypercall_fails_nothing_is_left_behind() {
    for call in 0.. {
        let bench = Bench::new();
        bench.host.make_domain();
        let before: Vec<String> = bench.store.state().tree.keys().cloned().collect();
        bench.host.state().fail_at = Some(call);
        match bench.create(&with_devices(&bench)) {
            Err(error) => {
                assert!(
                    error.chain().starts_with("creating \"web\": "),
                    "{}",
                    error.chain()
                );
                assert_nothing_left(&bench, 2, &before);
            }
            Ok(_) => {
                assert!(call >= 20, "only {call} calls were made");
                break;
            }
        }
    }
}

#[test]
fn whichever_request_to_xenstore_fails_nothing_is_left_behind() {
    let mut failed = 0;
    for request in 0.. {
        let bench = Bench::new();
        bench.host.make_domain();
        let before: Vec<String> = bench.store.state().tree.keys().cloned().collect();
        bench.store.state().fail_at = Some(request);
        match bench.create(&with_devices(&bench)) {
            Err(_) => {
                failed += 1;
                assert_nothing_left(&bench, 2, &before);
            }
            Ok(_) if bench.store.state().requests <= request => break,
            // an abort that fails after the work is done is no failure
            Ok(_) => {}
        }
    }
    assert!(failed > 60, "only {failed} requests were failed");
}

#[test]
fn whenever_xenstored_goes_and_comes_back_nothing_is_left_behind() {
    for request in 0.. {
        let bench = Bench::new();
        bench.host.make_domain();
        let before: Vec<String> = bench.store.state().tree.keys().cloned().collect();
        bench.store.state().hang_up_at = Some(request);
        match bench.create(&with_devices(&bench)) {
            Err(error) => {
                assert!(error.is_lost_store(), "{}", error.chain());
                assert_nothing_left(&bench, 2, &before);
            }
            Ok(_) => {
                assert!(request > 60, "only {request} requests were made");
                break;
            }
        }
    }
}

#[test]
fn too_little_memory_is_told_in_mib() {
    let mut bench = Bench::new();
    bench.ts.autoballoon = Autoballoon::Off;
    bench.host.state().free_pages = 20 * 256;
    bench.host.state().dom0_pages = 400 * 256;
    let mut config = bench.config("big");
    config.claim = true;
    let error = bench.create(&config).unwrap_err();
    assert_eq!(
        error.chain(),
        "creating \"big\": claiming memory: not enough memory: the domain needs 33 MiB, 20 MiB are free, of which 0 MiB are claimed by others; \
         make dom0 smaller: `xl mem-set 0 387` now, dom0_mem=387M on the hypervisor's command line for good"
    );
}

#[test]
fn a_name_or_uuid_in_use_is_refused_before_anything_is_made() {
    let bench = Bench::new();
    let config = bench.config("one");
    bench.create(&config).unwrap();
    let calls = bench.host.state().domains.len();
    let twin = bench.create(&config).unwrap_err().chain();
    assert!(
        twin.ends_with("domain 1 has the name \"one\" already"),
        "{twin}"
    );
    let mut other = bench.config("two");
    other.uuid = config.uuid;
    let twin = bench.create(&other).unwrap_err().chain();
    assert!(twin.contains("has the UUID"), "{twin}");
    assert_eq!(bench.host.state().domains.len(), calls);
}

fn assert_nothing_left(bench: &Bench, domains: usize, before: &[String]) {
    assert_eq!(bench.host.state().domains.len(), domains);
    let state = bench.store.state();
    let leaves: Vec<&String> = state
        .tree
        .iter()
        .filter(|(_, (value, _))| !value.is_empty())
        .map(|(path, _)| path)
        .collect();
    assert!(
        leaves.iter().all(|path| before.contains(path)),
        "left in xenstore: {leaves:?}"
    );
    assert!(state.introduced.is_empty());
    let files = std::fs::read_dir(&bench.ts.paths.userdata).unwrap().count();
    assert_eq!(files, 0);
}
