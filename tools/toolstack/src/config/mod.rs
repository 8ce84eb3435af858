//! What a domain should be: Xen's configuration format read into a [`DomainConfig`], and written as libxl's JSON.
//!
//! The format is a list of `KEY = VALUE`; the words that stand after the file's name on `xl create`'s command line are
//! appended to its text, so that the last one wins. Every message says where in that text its reason is.
//!
//! Next: [`types`] for the values, `domain` for which key gives which, `unserved` for what no key gives, `syntax` for
//! the grammar, `host` for what the host's own file says.

mod cpu_list;
mod cpuid;
mod cpuid_names;
mod disk;
mod domain;
mod host;
mod json;
mod lookup;
mod message;
mod nearest;
mod path;
mod syntax;
pub mod types;
mod unserved;
mod vdev;
mod vif;

pub use cpu_list::{CpuList, CpuListError};
pub use cpuid::{parse_cpuid_names, parse_cpuid_registers};
pub use disk::parse_disk;
pub use host::{HostConfig, NoCpuLeft, VifDefaults};
pub use json::{ListedDomain, Running, disk_json, domain_json, list_json, vif_json};
pub use message::Message;
pub use nearest::nearest;
pub use types::{
    Action, CpuidRule, DiskConfig, DiskFormat, DiskSource, DomainConfig, Mac, Rate, SchedParams,
    ShutdownActions, TimeOffset, TscMode, VifConfig, unusable_name,
};
pub use vdev::vdev_number;
pub(crate) use vif::INTERFACE_NAME_MAX;
pub use vif::{UnknownParameter, parse_rate, parse_vif};

use std::ffi::OsStr;

use lookup::Settings;
use message::Source;

/// A configuration that was read, and what was odd about it.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The domain.
    pub config: DomainConfig,
    /// Unknown keys, keys without effect, in the text's order.
    pub warnings: Vec<Message>,
}

/// Why a configuration cannot be used: everything that is wrong, and what was odd besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// What is wrong, in the text's order; never empty.
    pub errors: Vec<Message>,
    /// As for what can be used.
    pub warnings: Vec<Message>,
}

/// Reads a configuration: `name` is the file's, for messages; `extra` are the words of the command line; `host` gives
/// what the configuration does not say.
///
/// # Errors
/// All that is wrong, each with its place.
pub fn parse<S: AsRef<OsStr>>(
    name: &str,
    text: &[u8],
    extra: &[S],
    host: &HostConfig,
) -> Result<Parsed, Rejected> {
    let source = Source::new(name, text, extra);
    let settings = Settings::new(&source);
    let config = domain::read(&settings, host);
    let (errors, warnings) = settings.finish();
    if errors.is_empty() {
        Ok(Parsed { config, warnings })
    } else {
        Err(Rejected { errors, warnings })
    }
}
