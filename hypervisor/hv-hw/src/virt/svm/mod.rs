//! AMD-V (SVM): a vCPU as a VMCB.
//!
//! | file | about |
//! |---|---|
//! | `probe` | what this CPU offers, what is missing, and what makes vCPUs of it |
//! | `vcpu` | a vCPU: what the core asks of it |
//! | `host` | EFER.SVME, the host's own state |
//! | `vmcb` | the VMCB, field by field |
//! | `intercepts` | every intercept: asked for, or why not |
//! | `exit_codes` | every exit code: handled, answered with #UD, or why it cannot be |
//! | `setup` | a new VMCB |
//! | `entry` | into the guest and back |
//! | `exit` | VMCB → `VmExit` |
//! | `inject` | `Event` ↔ VMCB, and the windows |
//! | `registers` | the guest's registers in the VMCB |
//! | `msr_map`, `asid` | MSRs that need no exit, tags in the TLB |
//! | `dump` | the state of a guest that dies |
//!
//! The guest keeps its control registers to itself, CR0 too: a VM exit loads the hypervisor's own. Only CR4 exits, on
//! writes, since what a guest is not offered cannot be masked there.
//!
//! No use is made of VMCB clean bits, decode assists, AVIC, a scaled TSC and virtual NMIs: no emulator has them, so
//! nothing could show that they are used well.

mod asid;
mod dump;
mod entry;
mod exit;
mod exit_codes;
mod host;
mod inject;
mod intercepts;
mod msr_map;
mod probe;
mod registers;
mod setup;
mod vcpu;
mod vmcb;

pub(super) use probe::{Refusal, SvmProbe};
