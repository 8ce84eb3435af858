//! Tests of the core on a machine without hardware: vCPUs that play the exits which a test writes down for them.
//!
//! Each runs on a board of its own (`hv_hw::hosted`), which [`common`] makes a machine of.

mod accesses;
mod calls;
mod common;
mod copies;
mod cpu_time;
mod domains;
mod exits;
mod heap;
mod host_interrupts;
mod hostile_guests;
mod instructions;
mod log;
mod memory;
mod on_demand;
mod races;
mod rights;
mod shares;
mod speculation;
mod tables;
mod tasks;
mod teardown;
mod tsc;
mod widths;
mod xapic;
