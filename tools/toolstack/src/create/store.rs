//! What a domain finds of itself in xenstore, and who may read and write it.
//!
//! The tree is libxl's (guests, xenconsoled and Xen's own tools look there); the guest may write only where drivers do.

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;
use xenstore::{Ops, Perm};

use super::Ports;
use crate::config::DomainConfig;
use crate::domain::path;
use crate::image::layout::{CONSOLE_GFN, STORE_GFN};
use crate::{DOM0, Result, Toolstack};

/// Directories that the guest reads.
const READABLE: [&str; 6] = ["cpu", "memory", "device", "control", "store", "console"];
/// Nodes that the guest writes.
const WRITABLE: [&str; 11] = [
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
    "device/suspend/event-channel",
];
/// Bytes of console output that xenconsoled keeps.
const CONSOLE_LIMIT: &str = "1048576";

/// Writes a domain's nodes, all at once.
pub(crate) fn publish(
    ts: &Toolstack,
    domid: u16,
    config: &DomainConfig,
    ports: Ports,
) -> Result<()> {
    let nodes = nodes(domid, config, ports);
    let base = path(domid);
    let vm = vm_path(config.uuid);
    let ours = [Perm::none(DOM0), Perm::read(domid)];
    let theirs = [Perm::none(domid)];
    ts.store.transaction(|tx| -> xenstore::Result<()> {
        // an earlier domain of this id may have left something
        tx.rm_if_exists(&base)?;
        tx.rm_if_exists(&vm)?;
        for directory in [&base, &vm] {
            tx.mkdir(directory)?;
            tx.set_perms(directory, &ours)?;
        }
        for name in READABLE {
            tx.mkdir(&format!("{base}/{name}"))?;
        }
        for name in WRITABLE {
            tx.write_with_perms(&format!("{base}/{name}"), "", &theirs)?;
        }
        // not among the nodes: a repeated creation must differ in nothing else
        tx.write(&format!("{vm}/start_time"), start_time())?;
        nodes
            .iter()
            .try_for_each(|(node, value)| tx.write(node, value))
    })?;
    Ok(())
}

/// The time in seconds since 1970 with two decimals: `uptime` counts from it.
fn start_time() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}.{:02}", since.as_secs(), since.subsec_millis() / 10)
}

/// Paths and values.
fn nodes(domid: u16, config: &DomainConfig, ports: Ports) -> Vec<(String, String)> {
    let base = path(domid);
    let vm = vm_path(config.uuid);
    let console = format!("{}/backend/console/{domid}/0", path(DOM0));
    let mut nodes: Vec<(String, String)> = Vec::new();
    let mut add = |directory: &str, name: &str, value: &dyn ToString| {
        nodes.push((format!("{directory}/{name}"), value.to_string()));
    };
    add(&vm, "uuid", &config.uuid);
    add(&vm, "name", &config.name);
    add(&base, "vm", &vm);
    add(&base, "name", &config.name);
    add(&base, "domid", &domid);
    add(&base, "type", &"pvh");
    add(&base, "control/platform-feature-multiprocessor-suspend", &1);
    add(&base, "control/platform-feature-xs_reset_watches", &1);
    let most = config.max_memory_kib.max(config.memory_kib);
    add(&base, "memory/static-max", &most);
    add(&base, "memory/target", &config.memory_kib);
    for vcpu in 0..config.max_vcpus {
        let state = if vcpu < config.vcpus {
            "online"
        } else {
            "offline"
        };
        add(&base, &format!("cpu/{vcpu}/availability"), &state);
    }
    add(&base, "store/ring-ref", &STORE_GFN);
    add(&base, "store/port", &ports.store);
    add(&base, "console/backend", &console);
    add(&base, "console/backend-id", &DOM0);
    add(&base, "console/limit", &CONSOLE_LIMIT);
    add(&base, "console/type", &"xenconsoled");
    add(&base, "console/output", &"pty");
    add(&base, "console/tty", &"");
    add(&base, "console/port", &ports.console);
    add(&base, "console/ring-ref", &CONSOLE_GFN);
    add(&console, "frontend", &format!("{base}/console"));
    add(&console, "frontend-id", &domid);
    add(&console, "online", &1);
    add(&console, "state", &1);
    add(&console, "protocol", &"vt100");
    // what Xen's tools keep for themselves
    let libxl = libxl_path(domid);
    add(&libxl, "type", &"pvh");
    add(&libxl, "dm-version", &"qemu_xen");
    add(
        &libxl,
        "device/console/0/frontend",
        &format!("{base}/console"),
    );
    add(&libxl, "device/console/0/backend", &console);
    nodes
}

/// Removes all nodes of a domain; those of its UUID where one is given.
pub(crate) fn unpublish(ts: &Toolstack, domid: u16, uuid: Option<Uuid>) -> Result<()> {
    let backends = format!("{}/backend", path(DOM0));
    let kinds = ts
        .store
        .read_opt(&backends)?
        .map_or(Ok(Vec::new()), |_| ts.store.directory(&backends))?;
    ts.store.transaction(|tx| -> xenstore::Result<()> {
        for kind in &kinds {
            tx.rm_if_exists(&format!("{backends}/{kind}/{domid}"))?;
        }
        tx.rm_if_exists(&libxl_path(domid))?;
        if let Some(uuid) = uuid {
            tx.rm_if_exists(&vm_path(uuid))?;
        }
        tx.rm_if_exists(&path(domid))
    })?;
    Ok(())
}

fn vm_path(uuid: Uuid) -> String {
    format!("/vm/{uuid}")
}

/// Where libxl keeps what guests must not see.
pub(crate) fn libxl_path(domid: u16) -> String {
    format!("/libxl/{domid}")
}
