//! What a domain should be: Xen's configuration format read into a [`DomainConfig`], and written as libxl's JSON.
//!
//! The format is a list of `KEY = VALUE`; the words that stand after the file's name on `xl create`'s command line are
//! appended to its text, so that the last one wins. Every message says where in that text its reason is.
//!
//! Next: [`types`] for the values, `domain` for which key gives which, `syntax` for the grammar.

mod cpu_list;
mod cpuid;
mod cpuid_names;
mod disk;
mod domain;
mod json;
mod lookup;
mod message;
mod syntax;
pub mod types;
mod vif;

pub use cpu_list::{CpuList, CpuListError};
pub use cpuid::{cpuid_name, parse_cpuid_names, parse_cpuid_registers};
pub use disk::{parse_disk, vdev_number};
pub use json::{ListedDomain, Running, domain_json, list_json};
pub use lookup::nearest;
pub use message::Message;
pub use types::{
    Action, CpuidRule, DiskConfig, DiskFormat, DiskSource, DomainConfig, Mac, Rate, SchedParams,
    ShutdownActions, TimeOffset, TscMode, VifConfig,
};
pub use vif::{parse_rate, parse_vif};

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

/// Reads a configuration: `name` is the file's, for messages; `extra` are the words of the command line.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse<S: AsRef<str>>(name: &str, text: &str, extra: &[S]) -> Result<Parsed, Message> {
    let source = Source::new(name, text, extra);
    let settings = Settings::new(&source, syntax::parse(&source)?)?;
    let config = domain::read(&settings)?;
    Ok(Parsed {
        config,
        warnings: settings.into_warnings(),
    })
}
