//! VT-x: a vCPU as a VMCS.
//!
//! | file | about |
//! |---|---|
//! | `probe` | what this CPU offers, and what makes vCPUs of it |
//! | `vcpu` | a vCPU: what the core asks of it |
//! | `caps` | what the CPU can do, what is missing |
//! | `controls` | every control: used, or why not |
//! | `reasons` | every exit reason: handled, or why it cannot be |
//! | `host` | VMXON, host state |
//! | `vmcs`, `fields`, `insn` | the current VMCS and its fields |
//! | `setup` | a new VMCS |
//! | `entry` | into the guest and back |
//! | `exit` | VMCS → `VmExit` |
//! | `inject` | `Event` ↔ VMCS |
//! | `apic` | the local APIC's part in the VMCS |
//! | `registers` | the guest's registers in the VMCS |
//! | `switch` | what VM entry and exit do not switch |
//! | `msr_bitmap`, `vpid` | MSRs that need no exit, tags in the TLB |
//! | `dump` | the state of a guest that dies |
//!
//! The guest keeps its control registers and its page tables to itself; owned here are only CR0.{NE,NW,CD}, CR4.VMXE,
//! CR4.MCE and what the guest is not offered.

mod apic;
mod caps;
mod controls;
mod dump;
mod entry;
mod exit;
mod fields;
mod host;
mod inject;
mod insn;
mod msr_bitmap;
mod probe;
mod reasons;
mod registers;
mod setup;
mod switch;
mod vcpu;
mod vmcs;
mod vpid;

pub(super) use caps::Refusal;
pub(super) use probe::VtxProbe;
