//! Ends and what follows them, over the doubles.

use std::ffi::OsStr;
use std::path::Path;

use guest_abi::sched::{SHUTDOWN_crash, SHUTDOWN_reboot, SHUTDOWN_soft_reset, SHUTDOWN_watchdog};

use super::*;
use crate::config::{Action, DomainConfig};
use crate::testing::Bench;

fn end(bench: &Bench, config: &DomainConfig, reason: u32) -> (u16, Result<Ended>, Vec<String>) {
    let domid = bench.create(config).unwrap().domid;
    bench.host.state().domains.get_mut(&domid).unwrap().shutdown = Some(reason);
    let mut notes = Vec::new();
    let connect = bench.connect();
    let ended = follow_one(|| Ok(connect()), domid, &mut |_, line| {
        notes.push(line.to_owned());
        // one that took its place is destroyed at once, by somebody else
        if line.contains("is domain") {
            let next = line.split(' ').nth(3).unwrap().parse().unwrap();
            let _a_part_may_fail = bench.ts.destroy(next);
        }
    });
    (domid, ended, notes)
}

#[test]
fn a_domain_that_powers_off_is_destroyed() {
    let bench = Bench::new();
    let (_, ended, notes) = end(&bench, &bench.config("web"), 0);
    assert_eq!(ended.unwrap(), Ended::Destroyed);
    assert_eq!(notes, ["domain 1 ended: it powered off; destroy"]);
    assert_eq!(bench.host.state().domains.len(), 1);
}

#[test]
fn a_domain_that_reboots_comes_back_with_the_same_uuid() {
    let bench = Bench::new();
    let config = bench.config("web");
    // somebody may still have a page of the old one
    bench.host.state().keeps_zombies = true;
    let (domid, ended, notes) = end(&bench, &config, SHUTDOWN_reboot);
    assert_eq!(ended.unwrap(), Ended::Destroyed);
    assert_eq!(
        notes[1],
        "it lived for 0 s: it is started again in 2 s (1 of 10 times)"
    );
    assert_eq!(notes[2], format!("\"web\" is domain {} now", domid + 1));
}

#[test]
fn a_domain_of_which_a_part_is_left_comes_back_all_the_same() {
    let bench = Bench::new();
    let script = bench.files.path().join("script");
    std::fs::write(&script, "for word; do :; done\n[ $word = add ]\n").unwrap();
    let mut config = bench.config("web");
    let words = format!("script=/bin/sh {},vdev=xvda,target=x", script.display());
    config
        .disks
        .push(crate::config::parse_disk(words.as_bytes(), |_| ()).unwrap());
    let (_, ended, notes) = end(&bench, &config, SHUTDOWN_reboot);
    assert_eq!(ended.unwrap(), Ended::Destroyed);
    assert!(
        notes[2].starts_with("destroying domain 1: vbd 51712 of domain 1: script /bin/sh remove: "),
        "{notes:?}"
    );
    assert_eq!(notes[3], "\"web\" is domain 2 now");
}

/// Reboots a domain while the connection to xenstored breaks at the reboot's `request`; false beyond its last request.
fn reboot_with_a_loss_at(request: usize, on_reboot: Action, stays: usize) -> bool {
    let bench = Bench::new();
    let mut config = bench.config("web");
    config.actions.reboot = on_reboot;
    let domid = bench.create(&config).unwrap().domid;
    let end = |domid: u16, reason| {
        let mut host = bench.host.state();
        host.domains.get_mut(&domid).unwrap().shutdown = Some(reason);
    };
    end(domid, SHUTDOWN_reboot);
    let (connect, mut came_back) = (bench.connect(), false);
    let last = bench.store.state().requests + request;
    bench.store.state().hang_up_at = Some(last);
    let ended = follow_one(|| Ok(connect()), domid, &mut |_, line| {
        if line.contains("is domain") {
            came_back = true;
            end(line.split(' ').nth(3).unwrap().parse().unwrap(), 0);
        }
    });
    assert_eq!(ended.unwrap(), Ended::Destroyed);
    assert!(came_back, "it was lost at request {request}");
    assert_eq!(bench.host.state().domains.len(), stays);
    bench.store.state().requests > last
}

#[test]
fn a_reboot_outlasts_a_xenstored_that_goes_at_any_moment() {
    for (on_reboot, stays) in [(Action::Restart, 1), (Action::RestartRename, 2)] {
        let requests = (0..)
            .take_while(|request| reboot_with_a_loss_at(*request, on_reboot, stays))
            .count();
        assert!(requests > 60, "only {requests} requests were made");
    }
}

#[test]
fn a_domain_that_asks_for_a_soft_reset_goes_on_and_is_followed_further() {
    let bench = Bench::new();
    let domid = bench.create(&bench.config("web")).unwrap().domid;
    let end = |reason| {
        let mut host = bench.host.state();
        host.domains.get_mut(&domid).unwrap().shutdown = Some(reason);
    };
    end(SHUTDOWN_soft_reset);
    let mut notes = Vec::new();
    let connect = bench.connect();
    let ended = follow_one(|| Ok(connect()), domid, &mut |_, line| {
        notes.push(line.to_owned());
        if line.ends_with("goes on in its next kernel") {
            end(0);
        }
    });
    assert_eq!(ended.unwrap(), Ended::Destroyed);
    assert_eq!(
        notes,
        [
            "domain 1 ended: it asks for a soft reset; soft_reset",
            "domain 1 goes on in its next kernel",
            "domain 1 ended: it powered off; destroy"
        ]
    );
}

#[test]
fn each_reason_has_its_own_action() {
    for (reason, name) in [
        (
            SHUTDOWN_watchdog,
            "domain 1 ended: its watchdog expired; preserve",
        ),
        (
            SHUTDOWN_soft_reset,
            "domain 1 ended: it asks for a soft reset; preserve",
        ),
    ] {
        let bench = Bench::new();
        let mut config = bench.config("web");
        let kept = if reason == SHUTDOWN_watchdog {
            &mut config.actions.watchdog
        } else {
            &mut config.actions.soft_reset
        };
        *kept = Action::Preserve;
        let (_, ended, notes) = end(&bench, &config, reason);
        assert_eq!(ended.unwrap(), Ended::Preserved);
        assert_eq!(notes, [name]);
    }
}

#[test]
fn a_domain_to_be_preserved_stays_as_it_is() {
    let bench = Bench::new();
    let mut config = bench.config("web");
    config.actions.crash = Action::Preserve;
    let (domid, ended, _) = end(&bench, &config, SHUTDOWN_crash);
    assert_eq!(ended.unwrap(), Ended::Preserved);
    assert_eq!(bench.ts.find("web").unwrap().domid, domid);
}

#[test]
fn a_crash_is_dumped_before_the_domain_goes() {
    let bench = Bench::new();
    let mut config = bench.config("web");
    config.actions.crash = Action::CoredumpDestroy;
    let (_, ended, notes) = end(&bench, &config, SHUTDOWN_crash);
    assert_eq!(ended.unwrap(), Ended::Destroyed);
    let pages = 32 * 256 + 1 + 2;
    let file = bench.ts.paths.dumps.join("web");
    assert_eq!(
        notes[1],
        format!("{pages} pages dumped to {}", file.display())
    );
    assert!(std::fs::metadata(file).unwrap().len() > pages * 4096);
}

#[test]
fn a_log_and_a_process_are_made_for_the_monitor() {
    let files = tempfile::tempdir().unwrap();
    let log = files.path().join("logs/web.log");
    spawn(Path::new("/bin/echo"), &[OsStr::new("hello")], &log).unwrap();
    for _ in 0..6000 {
        if std::fs::read_to_string(&log).is_ok_and(|text| text == "hello\n") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the log stayed empty");
}

#[test]
fn a_xenstored_that_comes_back_is_followed_again() {
    let bench = Bench::new();
    let domid = bench.create(&bench.config("web")).unwrap().domid;
    bench.host.state().domains.get_mut(&domid).unwrap().shutdown = Some(0);
    let tries = std::cell::Cell::new(0);
    let open = || {
        tries.set(tries.get() + 1);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(theirs);
        let store = if tries.get() < 3 {
            xenstore::Store::from_stream(ours)
        } else {
            bench.store.connect()
        };
        let mut toolstack = Toolstack::over(bench.host.hyper(), store);
        toolstack.paths = bench.ts.paths.clone();
        Ok(toolstack)
    };
    let mut notes = Vec::new();
    let ended = follow_one(open, domid, &mut |_, line| notes.push(line.to_owned())).unwrap();
    assert_eq!((ended, tries.get()), (Ended::Destroyed, 3));
    assert!(notes[0].ends_with("; waiting for another"), "{notes:?}");
    assert_eq!(
        notes.last().unwrap(),
        "domain 1 ended: it powered off; destroy"
    );
}

fn shut_down(bench: &Bench, domid: u16, reason: u32) {
    let mut host = bench.host.state();
    host.domains.get_mut(&domid).unwrap().shutdown = Some(reason);
}

/// Reads the domain that a line of the monitor's names as the new one.
fn successor(line: &str) -> Option<u16> {
    line.split_once("is domain ")?
        .1
        .split(' ')
        .next()?
        .parse()
        .ok()
}

#[test]
fn one_monitor_acts_for_all_that_are_marked_and_for_nobody_else() {
    let bench = Bench::new();
    let names = ["a", "b", "c", "left"];
    let domids = names.map(|name| bench.create(&bench.config(name)).unwrap().domid);
    for domid in &domids[..3] {
        bench.ts.follow(*domid).unwrap();
    }
    for domid in domids {
        shut_down(&bench, domid, 0);
    }
    let (connect, mut notes) = (bench.connect(), Vec::new());
    serve(|| Ok(connect()), &mut |name, line| {
        notes.push(format!("{name}: {line}"))
    })
    .unwrap();
    assert_eq!(notes[1], "b: domain 2 ended: it powered off; destroy");
    assert_eq!((notes.len(), bench.host.state().domains.len()), (3, 2));
    assert!(bench.ts.info(domids[3]).is_ok());
}

#[test]
fn a_second_monitor_ends_at_once() {
    let bench = Bench::new();
    let domid = bench.create(&bench.config("web")).unwrap().domid;
    bench.ts.follow(domid).unwrap();
    shut_down(&bench, domid, 0);
    assert!(!is_there(&bench.ts.paths).unwrap());
    let first = process::Only::take(&bench.ts.paths).unwrap();
    assert!(is_there(&bench.ts.paths).unwrap());
    let connect = bench.connect();
    serve(|| Ok(connect()), &mut |_, line| panic!("{line}")).unwrap();
    drop(first);
    serve(|| Ok(connect()), &mut |_, _| {}).unwrap();
    assert!(bench.ts.info(domid).is_err());
}

#[test]
fn a_guest_that_crashes_as_it_starts_is_given_up() {
    let bench = Bench::new();
    let mut config = bench.config("web");
    config.actions.crash = Action::Restart;
    let domid = bench.create(&config).unwrap().domid;
    bench.ts.follow(domid).unwrap();
    shut_down(&bench, domid, SHUTDOWN_crash);
    let (connect, mut pauses, mut last) = (bench.connect(), Vec::new(), String::new());
    serve(|| Ok(connect()), &mut |_, line| {
        if let Some(domid) = successor(line) {
            shut_down(&bench, domid, SHUTDOWN_crash);
        }
        if let Some((_, rest)) = line.split_once("again in ") {
            pauses.push(rest.split(' ').next().unwrap().parse::<u32>().unwrap());
        }
        line.clone_into(&mut last);
    })
    .unwrap();
    assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60, 60, 60]);
    assert!(last.contains("10 times in a row"), "{last}");
    assert_eq!(bench.host.state().domains.len(), 1);
}

#[test]
fn who_destroys_a_guest_before_it_is_started_again_wants_no_other() {
    let bench = Bench::new();
    let domid = bench.create(&bench.config("web")).unwrap().domid;
    bench.ts.follow(domid).unwrap();
    shut_down(&bench, domid, SHUTDOWN_reboot);
    let (connect, mut last) = (bench.connect(), String::new());
    serve(|| Ok(connect()), &mut |_, line| {
        if line.contains("again in") {
            bench.ts.destroy(domid).unwrap();
        }
        line.clone_into(&mut last);
    })
    .unwrap();
    assert!(last.contains("taken away meanwhile"), "{last}");
    assert_eq!(bench.host.state().domains.len(), 1);
}

/// Kills the monitor at a reboot's `request`, and starts another; false beyond its last request.
fn reboot_with_a_kill_at(request: usize, on_reboot: Action, stays: usize) -> bool {
    let bench = Bench::new();
    let mut config = bench.config("web");
    config.actions.reboot = on_reboot;
    let domid = bench.create(&config).unwrap().domid;
    bench.ts.follow(domid).unwrap();
    shut_down(&bench, domid, SHUTDOWN_reboot);
    let connect = bench.connect();
    let last = bench.store.state().requests + request;
    bench.store.state().hang_up_at = Some(last);
    let came_back = std::cell::Cell::new(0);
    let mut note = |_: &str, line: &str| {
        if let Some(domid) = successor(line) {
            came_back.set(domid);
            shut_down(&bench, domid, 0);
        }
    };
    // one that was killed opens no other connection
    let killed = serve(
        || match bench.store.state().requests > last {
            true => Err(Error::Refused("killed".to_owned())),
            false => Ok(connect()),
        },
        &mut note,
    );
    let was_killed = killed.is_err();
    bench.store.state().hang_up_at = None;
    serve(|| Ok(connect()), &mut note).unwrap();
    assert_ne!(came_back.get(), 0, "it was lost at request {request}");
    let left = std::fs::read_dir(&bench.ts.paths.userdata)
        .unwrap()
        .flatten();
    let records = left.filter(|file| file.file_name().to_string_lossy().starts_with("restart-"));
    assert_eq!(records.count(), 0, "a record stays after request {request}");
    assert_eq!(bench.host.state().domains.len(), stays);
    was_killed
}

#[test]
fn a_reboot_outlasts_a_monitor_that_is_killed_at_any_moment() {
    for (on_reboot, stays) in [(Action::Restart, 1), (Action::RestartRename, 2)] {
        let requests = (0..)
            .take_while(|request| reboot_with_a_kill_at(*request, on_reboot, stays))
            .count();
        assert!(requests > 50, "only {requests} requests were made");
    }
}

#[test]
fn each_domain_has_a_log_with_times() {
    let bench = Bench::new();
    log(&bench.ts.paths, "web", "one").unwrap();
    log(&bench.ts.paths, "web", "two").unwrap();
    let text = std::fs::read_to_string(bench.ts.paths.logs.join("xl-web.log")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("20") && lines[0].ends_with("Z one"),
        "{text}"
    );
    assert_eq!(lines.len(), 2);
}
