//! `xl debug-keys`: keys for the hypervisor's dumps; what they print is in its log.

use clap::Parser;

use crate::context::Context;
use crate::failure::Outcome;
use crate::table::Verb;

/// Send debug keys to the hypervisor (h lists them); xl dmesg shows what they print
#[derive(Debug, Parser)]
pub struct DebugKeys {
    /// Keys, as in q or dq
    keys: String,
}

impl Verb for DebugKeys {
    fn run(self, context: &Context) -> Outcome {
        Ok(context.hyper()?.debug_keys(&self.keys)?)
    }
}
