//! public/io/: rings between domains.

pub mod console;
pub mod xs_wire;
