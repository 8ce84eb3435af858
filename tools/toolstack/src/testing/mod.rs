//! Doubles for tests: a hypervisor with domains, memory and ports, and a xenstore with a tree, watches and
//! transactions.
//!
//! Both count their requests and can refuse one of them, so that a test can fail a creation at every step.

mod host;
mod store;

pub(crate) use host::{Balloon, FakeHost};
pub(crate) use store::FakeStore;

use std::rc::Rc;

use crate::config::{self, DomainConfig};
use crate::create::{Created, Options};
use crate::{Lock, Opener, Paths, Result, Toolstack};

/// A configuration of a domain with a kernel that is not there.
pub(crate) fn config(name: &str, memory_mib: u64) -> DomainConfig {
    let text = format!("name = \"{name}\"\nkernel = \"/no/such/kernel\"\nmemory = {memory_mib}\n");
    let none: &[&str] = &[];
    let host = config::HostConfig::default();
    config::parse("test", text.as_bytes(), none, &host)
        .unwrap()
        .config
}

/// An ELF kernel with a PVH note: code at 16 MiB, and data behind it of which some pages are zero.
pub(crate) fn kernel() -> Vec<u8> {
    let note: Vec<u8> = [4u32, 4, 18]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .chain(*b"Xen\0")
        .chain(0x100_0040u32.to_le_bytes())
        .collect();
    let text: Vec<u8> = (0..3 * 4096u32)
        .map(|i| (i % 251 + 1).to_le_bytes()[0])
        .collect();
    let mut data = vec![0u8; 5 * 4096];
    data[4096 * 3 + 7] = 9;
    let mut file = vec![0u8; 64];
    file[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
    file[20] = 1;
    file[32] = 64;
    file[52..58].copy_from_slice(&[64, 0, 56, 0, 3, 0]);
    let mut offset = 4096u64;
    let parts: [(u32, u64, &[u8], u64); 3] = [
        (1, 0x100_0000, &text, 3 * 4096),
        (1, 0x100_4000, &data, 9 * 4096),
        (4, 0, &note, note.len() as u64),
    ];
    for (kind, at, bytes, memory) in parts {
        for word in [
            u64::from(kind),
            offset,
            at,
            at,
            bytes.len() as u64,
            memory,
            4096,
        ] {
            file.extend(word.to_le_bytes());
        }
        offset += (bytes.len() as u64).next_multiple_of(4096);
    }
    for (_, _, bytes, _) in parts {
        file.resize(file.len().next_multiple_of(4096), 0);
        file.extend(bytes);
    }
    file
}

/// A toolstack over both doubles, with its files in a fresh directory.
pub(crate) struct Bench {
    pub(crate) host: FakeHost,
    pub(crate) store: FakeStore,
    pub(crate) ts: Toolstack,
    pub(crate) files: tempfile::TempDir,
}

fn over(host: &FakeHost, store: &FakeStore) -> Toolstack {
    let mut ts = Toolstack::over(host.hyper(), store.connect());
    let store = store.clone();
    ts.opener = Opener(Rc::new(move || Ok(store.connect())));
    ts
}

impl Bench {
    pub(crate) fn new() -> Self {
        let (host, store) = (FakeHost::new(), FakeStore::default());
        let files = tempfile::tempdir().unwrap();
        let mut ts = over(&host, &store);
        ts.paths = Paths {
            userdata: files.path().join("userdata"),
            dumps: files.path().join("dumps"),
            logs: files.path().join("logs"),
            scripts: files.path().join("scripts"),
            lock: files.path().join("run/xl.lock"),
            meminfo: files.path().join("meminfo"),
            monitor: files.path().join("run/xl-monitor.lock"),
        };
        std::fs::create_dir(&ts.paths.userdata).unwrap();
        std::fs::write(files.path().join("kernel"), kernel()).unwrap();
        Self {
            host,
            store,
            ts,
            files,
        }
    }

    /// Makes toolstacks over the same doubles, in another thread as well.
    pub(crate) fn connect(&self) -> impl Fn() -> Toolstack + Send + use<> {
        let (host, store) = (self.host.clone(), self.store.clone());
        let paths = self.ts.paths.clone();
        move || {
            let mut ts = over(&host, &store);
            ts.paths = paths.clone();
            ts
        }
    }

    pub(crate) fn lock(&self) -> Lock {
        self.ts.lock(&mut |_| {}).unwrap()
    }

    /// Creates a domain and lets it run.
    pub(crate) fn create(&self, config: &DomainConfig) -> Result<Created> {
        self.ts.create(&self.lock(), config, Options::default())
    }

    /// A configuration whose kernel is there.
    pub(crate) fn config(&self, name: &str) -> DomainConfig {
        let mut config = config(name, 32);
        config.kernel = self.files.path().join("kernel");
        config
    }
}
