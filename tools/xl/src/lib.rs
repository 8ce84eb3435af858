//! `xl`: the command line that people and scripts know, with its texts byte for byte.
//!
//! [`table`] names the verbs, [`cli`] finds the one that is meant, [`verbs`] holds a file for each: its options, what
//! it does through the `toolstack` crate, and its text as a pure function of plain data. Scripts cut the texts up by
//! column and by line, so the golden files of the tests hold them exactly; whoever wants more asks for `--json`.
//!
//! `xl create` from text to domain: the route card in tools/toolstack/src/create/mod.rs.

pub mod cli;
pub mod config_file;
pub mod context;
pub mod failure;
pub mod output;
pub mod table;
pub mod top;
pub mod verbs;
