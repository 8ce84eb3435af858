//! `xl dump-core`: a guest's memory and registers in a file, for `crash` and `gdb`.

use std::path::PathBuf;

use clap::Parser;

use crate::context::Context;
use crate::failure::Outcome;
use crate::output;
use crate::table::Verb;

/// Write a guest's memory and registers to a file
#[derive(Debug, Parser)]
pub struct DumpCore {
    /// Domain: name, id or UUID
    domain: String,
    /// File to write
    file: PathBuf,
}

impl Verb for DumpCore {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let pages = context.toolstack()?.dump_core(domain.domid, &self.file)?;
        output::note(&format!("{pages} pages written to {}", self.file.display()));
        let written = serde_json::json!({"domid": domain.domid, "pages": pages});
        context.answer("dump-core", written)
    }
}
