//! `grant_table_op`. Source: `public/grant_table.h`; version 1 entries.
//!
//! Most operations take an array, in the second argument and its length in the third, and answer each element with a
//! status of its own; long arrays are done in pieces, after each of which the guest comes again with the rest. How a
//! page is mapped, copied and let go is in [`crate::domain::grants`].

mod array;
mod copy;
mod map;
mod table;
mod unmap;

use crate::hypercall::{Answer, Call, Stop, caller};

pub(super) use copy::handle as copy;
pub(super) use map::handle as map;
pub(super) use table::{get_version, query_size, set_version, setup};
pub(super) use unmap::{handle as unmap, replace};
