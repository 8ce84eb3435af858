//! Attaching and detaching over a fake xenstore.

use super::*;
use crate::config::{DiskConfig, DiskFormat, DiskSource};
use crate::testing::Bench;

fn disk(target: &str, writable: bool) -> DiskConfig {
    DiskConfig {
        target: target.into(),
        source: DiskSource::Auto,
        format: DiskFormat::Raw,
        vdev: "xvdb".to_owned(),
        writable,
        shared: false,
        cdrom: false,
        direct_io_safe: false,
        discard: None,
        script: Some("/bin/true".to_owned()),
        backend: None,
    }
}

/// A disk of the domain's that is there.
fn attached(bench: &Bench, domid: u16) -> Device {
    let lock = bench.lock();
    let attached = bench.ts.attach_disk(&lock, domid, &disk("/images/a", true));
    attached.unwrap()
}

#[test]
fn a_disk_by_script_is_published_listed_found_and_taken_away() {
    let bench = Bench::new();
    let domid = bench.host.make_domain();
    let device = attached(&bench, domid);
    assert_eq!(device.devid, 51728);
    let back = device.backend_path();
    assert_eq!(
        bench.store.get(&format!("{back}/mode")).as_deref(),
        Some("w")
    );
    assert_eq!(
        bench.store.get(&format!("{back}/script")).as_deref(),
        Some("/bin/true")
    );
    let listed = bench.ts.devices(domid, Kind::Vbd).unwrap();
    assert_eq!(
        (listed[0].name.as_deref(), listed[0].target.as_deref()),
        (Some("xvdb"), Some("/images/a"))
    );
    assert_eq!(listed[0].device, device);
    let twice = bench
        .ts
        .attach_disk(&bench.lock(), domid, &disk("/images/b", false))
        .unwrap_err();
    assert_eq!(twice.chain(), "there is a vbd 51728 of domain 1 already");
    bench.ts.detach(&device, Force::Never).unwrap();
    assert!(bench.ts.devices(domid, Kind::Vbd).unwrap().is_empty());
}

#[test]
fn a_served_disk_goes_when_its_backend_closed() {
    let bench = Bench::new();
    let domid = bench.host.make_domain();
    let device = attached(&bench, domid);
    let state = format!("{}/state", device.backend_path());
    bench.ts.store.write(&state, "4").unwrap();
    bench
        .store
        .state()
        .reactions
        .push(["/state", "5", "/state", "6"]);
    bench.ts.detach(&device, Force::Never).unwrap();
    assert_eq!(bench.store.get(&state), None);
    assert_eq!(bench.store.get(&device.libxl_path()), None);
}

#[test]
fn what_a_driver_domain_writes_is_not_run_here() {
    let bench = Bench::new();
    let (driver, domid) = (bench.host.make_domain(), bench.host.make_domain());
    let mut served = disk("/images/a", true);
    (served.backend, served.script) = (Some(driver.to_string()), None);
    let device = bench.ts.attach_disk(&bench.lock(), domid, &served).unwrap();
    let ran = bench.files.path().join("ran");
    let back = device.backend_path();
    for (name, value) in [
        ("script", format!("/bin/touch {}", ran.display())),
        ("hotplug-by-script", "1".to_owned()),
        ("loop-device", ran.display().to_string()),
    ] {
        bench
            .ts
            .store
            .write(&format!("{back}/{name}"), value)
            .unwrap();
    }
    bench.ts.detach(&device, Force::AtOnce).unwrap();
    assert!(!ran.exists());
    assert_eq!(bench.store.get(&back), None);
}

#[test]
fn what_a_guest_writes_of_its_devices_is_not_believed() {
    let bench = Bench::new();
    let (other, domid) = (bench.host.make_domain(), bench.host.make_domain());
    let device = Device {
        kind: Kind::Vif,
        frontend: domid,
        backend: crate::DOM0,
        devid: 0,
    };
    let nodes: Nodes = vec![("mac", "00:16:3e:00:00:07".to_owned())];
    bench.ts.publish_device(&device, &nodes, &nodes).unwrap();
    let front = device.frontend_path();
    for (name, value) in [
        ("backend-id", other.to_string()),
        ("mac", "\x1b[2J".to_owned()),
        ("backend", format!("/local/domain/{other}/backend/vif/1/0")),
    ] {
        bench
            .ts
            .store
            .write(&format!("{front}/{name}"), value)
            .unwrap();
    }
    let invented = format!("{}/device/vif/9/backend-id", path(domid));
    bench.ts.store.write(&invented, "0").unwrap();
    let listed = bench.ts.devices(domid, Kind::Vif).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].device, device);
    assert_eq!(listed[0].mac.as_deref(), Some("00:16:3e:00:00:07"));
    // one that removes its end has the device all the same
    bench.ts.store.rm(&front).unwrap();
    let twice = bench.ts.publish_device(&device, &nodes, &nodes);
    assert!(twice.unwrap_err().chain().contains("already"));
}

#[test]
fn a_guest_that_keeps_writing_cannot_hold_up_a_detach() {
    let bench = Bench::new();
    let domid = bench.host.make_domain();
    let device = attached(&bench, domid);
    bench.store.state().contended = Some("/device/vbd/");
    bench.ts.detach(&device, Force::AtOnce).unwrap();
    assert!(bench.ts.device_ids(domid, Kind::Vbd).unwrap().is_empty());
}

#[test]
fn a_node_that_is_written_all_the_time_is_not_waited_for_beyond_the_time() {
    let bench = Bench::new();
    bench.store.state().chatters = true;
    let is_done = |value: Option<&str>| value == Some("done");
    let time = Duration::from_millis(50);
    assert!(!wait_for(&bench.ts.store, "/node", time, is_done).unwrap());
}

#[test]
fn a_script_that_fails_takes_the_disk_back() {
    let bench = Bench::new();
    let domid = bench.host.make_domain();
    let mut bad = disk("/images/a", true);
    bad.script = Some("/bin/false".to_owned());
    let error = bench
        .ts
        .attach_disk(&bench.lock(), domid, &bad)
        .unwrap_err()
        .chain();
    assert!(
        error.starts_with("script /bin/false add: exit status: 1"),
        "{error}"
    );
    assert!(bench.ts.device_ids(domid, Kind::Vbd).unwrap().is_empty());
}

#[test]
fn a_file_that_another_domain_writes_is_refused_with_both_names() {
    let bench = Bench::new();
    let image = bench.files.path().join("image");
    std::fs::write(&image, "x").unwrap();
    let target = image.to_str().unwrap();
    let (first, second) = (bench.host.make_domain(), bench.host.make_domain());
    for (domid, name) in [(first, "web"), (second, "mail")] {
        bench
            .ts
            .store
            .write(&format!("/local/domain/{domid}/name"), name)
            .unwrap();
    }
    bench
        .ts
        .attach_disk(&bench.lock(), first, &disk(target, true))
        .unwrap();
    let mut again = disk(target, true);
    again.script = None;
    let error = bench
        .ts
        .attach_disk(&bench.lock(), second, &again)
        .unwrap_err()
        .chain();
    assert_eq!(
        error,
        format!(
            "{target} cannot be \"xvdb\" of \"mail\" for writing: it is \"xvdb\" of \"web\", which writes to it; \
             only what all have as w! may be shared so"
        )
    );
}

#[test]
fn a_disk_of_a_domain_that_is_gone_is_taken_from_it() {
    let bench = Bench::new();
    let image = bench.files.path().join("image");
    std::fs::write(&image, "x").unwrap();
    let wanted = disk(image.to_str().unwrap(), true);
    let (gone, next) = (bench.host.make_domain(), bench.host.make_domain());
    let left = bench.ts.attach_disk(&bench.lock(), gone, &wanted).unwrap();
    let check = || sharing::check(&bench.ts, &bench.lock(), next, &wanted, &image);
    assert!(check().is_err());
    bench.ts.hyper.destroy_domain(gone).unwrap();
    check().unwrap();
    assert_eq!(bench.store.get(&left.backend_path()), None);
    assert_eq!(bench.store.get(&left.libxl_path()), None);
}

#[test]
fn a_path_that_means_something_else_elsewhere_is_refused() {
    let bench = Bench::new();
    let domid = bench.host.make_domain();
    let mut relative = disk("Cargo.toml", true);
    relative.script = None;
    let held = bench.lock();
    let error = bench.ts.attach_disk(&held, domid, &relative).unwrap_err();
    assert_eq!(
        error.chain(),
        "Cargo.toml is no absolute path: others could not tell what it is"
    );
}

#[test]
fn a_card_without_its_bridge_is_refused_with_the_remedy() {
    let bench = Bench::new();
    let domid = bench.host.make_domain();
    let vif = crate::config::VifConfig {
        bridge: Some("nosuchbr0".to_owned()),
        ..Default::default()
    };
    let error = bench.ts.attach_vif(domid, 0, &vif).unwrap_err().chain();
    assert!(
        error.starts_with("there is no bridge nosuchbr0 (make one: ip link add"),
        "{error}"
    );
    assert!(
        bench
            .store
            .state()
            .tree
            .keys()
            .all(|path| !path.contains("vif"))
    );
}

/// What a disk's two ends and libxl's directory hold.
fn nodes_of(bench: &Bench, device: &Device) -> Vec<Option<String>> {
    let (front, back) = (device.frontend_path(), device.backend_path());
    [
        format!("{front}/state"),
        format!("{back}/state"),
        format!("{back}/online"),
        format!("{}/backend", device.libxl_path()),
    ]
    .iter()
    .map(|node| bench.store.get(node))
    .collect()
}

#[test]
fn a_disk_in_use_stays_attached_unless_it_is_forced() {
    let bench = Bench::new();
    let domid = bench.host.make_domain();
    let attached = disk("/images/a", true);
    let device = bench
        .ts
        .attach_disk(&bench.lock(), domid, &attached)
        .unwrap();
    for end in [device.frontend_path(), device.backend_path()] {
        let state = format!("{end}/state");
        bench.ts.store.write(&state, "4").unwrap();
    }
    let before = nodes_of(&bench, &device);
    let error = bench.ts.detach(&device, Force::Never).unwrap_err();
    assert!(
        error.chain().contains("stays attached"),
        "{}",
        error.chain()
    );
    assert_eq!(nodes_of(&bench, &device), before);
    assert!(bench.ts.detach(&device, Force::AfterAsking).is_err());
    assert_eq!(nodes_of(&bench, &device), [None, None, None, None]);
}

#[test]
fn what_goes_leaves_the_kept_configuration_and_what_stays_does_not() {
    for (force, stays) in [(Force::Never, true), (Force::AtOnce, false)] {
        let bench = Bench::new();
        let mut config = bench.config("web");
        config.disks.push(disk("/images/a", true));
        let domid = bench.create(&config).unwrap().domid;
        let info = bench.ts.devices(domid, Kind::Vbd).unwrap().remove(0);
        let state = format!("{}/state", info.device.backend_path());
        bench.ts.store.write(&state, "4").unwrap();
        assert!(bench.ts.detach(&info.device, force).is_err());
        bench.ts.forget_detached(&bench.lock(), &info).unwrap();
        let kept = bench.ts.kept_config(domid).unwrap().unwrap();
        assert_eq!(kept.disks.len(), usize::from(stays));
    }
}
