//! What this CPU's VMX can do, from its capability MSRs, and what is missing where it is too little.
//!
//! Nothing is assumed: every control is asked for as `controls` has it, and an optional one can be switched off by hand
//! ([`Switches`]). Source: Intel SDM vol. 3D, "VMX Capability Reporting Facility".

use core::fmt;

use hv_core::device::lapic::{ApicVirtualization, Delivery};

use super::super::Switches;
use super::controls::{self, Word};
use super::fields::{Entry, Exit, Pin, Primary, Secondary};

const FEATURE_CONTROL: u32 = 0x3A;
const VMX_BASIC: u32 = 0x480;
const VMX_CR0_FIXED0: u32 = 0x486;
const VMX_CR0_FIXED1: u32 = 0x487;
const VMX_CR4_FIXED0: u32 = 0x488;
const VMX_CR4_FIXED1: u32 = 0x489;
const VMX_SECONDARY: u32 = 0x48B;
const VMX_EPT_VPID: u32 = 0x48C;

const FEATURE_CONTROL_LOCKED: u64 = 1;
const FEATURE_CONTROL_VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// Why this CPU cannot run guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// CPUID does not show VMX.
    NoVmx,
    /// The firmware locked VMX off.
    LockedOff(u64),
    /// Something that nothing works without, and what it is for.
    Missing(&'static str, &'static str),
    NoEpt,
    NoUnrestrictedGuest,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVmx => f.write_str(
                "this CPU has no VT-x (CPUID.1:ECX.VMX is 0): Hematite needs an Intel CPU of 2010 or later; in a \
                 virtual machine, enable nested virtualisation",
            ),
            Self::LockedOff(value) => write!(
                f,
                "VT-x is disabled by firmware: IA32_FEATURE_CONTROL is {value:#x} (locked, VMX outside SMX off); \
                 enable Intel Virtualization Technology in the firmware setup and power-cycle"
            ),
            Self::NoEpt => f.write_str(
                "this CPU's VT-x has no EPT (extended page tables): an Intel CPU of 2010 (Westmere) or later is needed",
            ),
            Self::NoUnrestrictedGuest => f.write_str(
                "this CPU's VT-x has no unrestricted guest mode: an Intel CPU of 2010 (Westmere) or later is needed",
            ),
            Self::Missing(what, why) => {
                write!(f, "this CPU's VT-x lacks {what}, which Hematite needs: {why}")
            }
        }
    }
}

/// What VMX offers, after the switches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Caps {
    /// First word of every VMCS.
    pub(super) revision: u32,
    /// Pin-based controls as the MSRs require and we want them.
    pub(super) pin: Pin,
    pub(super) primary: Primary,
    pub(super) secondary: Secondary,
    pub(super) exit: Exit,
    pub(super) entry: Entry,
    /// Bits of CR0 that must be 1 in VMX operation (PE and PG are the guest's own in unrestricted mode).
    pub(super) cr0_required: u64,
    /// Bits of CR0 that may be 1.
    pub(super) cr0_allowed: u64,
    /// Bits of CR4 that must be 1.
    pub(super) cr4_required: u64,
    /// Bits of CR4 that may be 1.
    pub(super) cr4_allowed: u64,
    /// EPT: leaves of 2 MiB.
    pub(super) ept_2m: bool,
    /// EPT: leaves of 1 GiB.
    pub(super) ept_1g: bool,
    /// EPT: accessed and dirty flags.
    pub(super) ept_accessed_dirty: bool,
    /// INVVPID of a single context.
    pub(super) invvpid_single: bool,
}

impl Caps {
    /// Reads the capabilities through `rdmsr`, on a CPU whose CPUID shows VMX or not as `has_vmx` says.
    ///
    /// # Errors
    /// [`Refusal`] where something is missing that Hematite needs.
    pub(super) fn probe(
        has_vmx: bool,
        switches: &Switches,
        rdmsr: impl Fn(u32) -> u64,
    ) -> Result<Self, Refusal> {
        if !has_vmx {
            return Err(Refusal::NoVmx);
        }
        let control = rdmsr(FEATURE_CONTROL);
        if control & FEATURE_CONTROL_LOCKED != 0 && control & FEATURE_CONTROL_VMX_OUTSIDE_SMX == 0 {
            return Err(Refusal::LockedOff(control));
        }
        let basic = rdmsr(VMX_BASIC);
        // with bit 55 the "true" MSRs say which default-1 controls may be 0
        let true_base = if basic & (1 << 55) != 0 { 0x48D } else { 0x481 };
        let range = |index: u32| ControlRange::new(rdmsr(true_base + index));
        let primary = primary_controls(range(1), switches)?;
        let secondary =
            secondary_controls(ControlRange::new(rdmsr(VMX_SECONDARY)), switches, primary)?;
        let ept_vpid = EptVpid(rdmsr(VMX_EPT_VPID));
        ept_vpid.check()?;
        let secondary = if ept_vpid.invvpid_single() {
            secondary
        } else {
            secondary - Secondary::VPID
        };
        Ok(Self {
            revision: u32::try_from(basic & 0x7FFF_FFFF).expect("masked to 31 bits"),
            pin: pin_controls(range(0), switches, secondary)?,
            primary,
            secondary,
            exit: Exit::from_bits_retain(choose(Word::Exit, range(2), switches)?),
            entry: Entry::from_bits_retain(choose(Word::Entry, range(3), switches)?),
            cr0_required: rdmsr(VMX_CR0_FIXED0),
            cr0_allowed: rdmsr(VMX_CR0_FIXED1),
            cr4_required: rdmsr(VMX_CR4_FIXED0),
            cr4_allowed: rdmsr(VMX_CR4_FIXED1),
            ept_2m: switches.stage2_2m && ept_vpid.has(16),
            ept_1g: switches.stage2_2m && switches.stage2_1g && ept_vpid.has(17),
            ept_accessed_dirty: ept_vpid.has(21),
            invvpid_single: ept_vpid.invvpid_single(),
        })
    }

    /// True where the CPU serves the task-priority register of the local APIC.
    #[must_use]
    pub(super) fn has_tpr_shadow(&self) -> bool {
        self.primary.contains(Primary::TPR_SHADOW)
    }

    /// True where guests may use RDTSCP and RDPID.
    #[must_use]
    pub(super) fn has_rdtscp(&self) -> bool {
        self.secondary.contains(Secondary::RDTSCP)
    }

    /// True where guests may use INVPCID.
    #[must_use]
    pub(super) fn has_invpcid(&self) -> bool {
        self.secondary.contains(Secondary::INVPCID)
    }

    /// True where guests may use XSAVES and XRSTORS.
    #[must_use]
    pub(super) fn has_xsaves(&self) -> bool {
        self.secondary.contains(Secondary::XSAVES)
    }

    /// What the CPU does of the local APIC in x2APIC mode.
    #[must_use]
    pub(super) fn apic_virtualization(&self) -> ApicVirtualization {
        ApicVirtualization {
            x2apic_mode: self.secondary.contains(Secondary::VIRTUAL_X2APIC),
            registers: self.secondary.contains(Secondary::APIC_REGISTERS),
            delivery: if self.has_interrupt_delivery() {
                Delivery::ByCpu
            } else {
                Delivery::BySoftware
            },
        }
    }

    /// True where the CPU delivers virtual interrupts itself.
    #[must_use]
    pub(super) fn has_interrupt_delivery(&self) -> bool {
        self.secondary.contains(Secondary::INTERRUPT_DELIVERY)
    }
}

impl fmt::Display for Caps {
    /// The optional features in use, as one line of the boot log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EPT")?;
        let mut feature = |present: bool, name: &str| {
            if present {
                write!(f, " {name}")
            } else {
                Ok(())
            }
        };
        feature(self.ept_2m, "2M")?;
        feature(self.ept_1g, "1G")?;
        feature(self.ept_accessed_dirty, "A/D")?;
        feature(self.secondary.contains(Secondary::VPID), "VPID")?;
        feature(self.has_tpr_shadow(), "TPR-shadow")?;
        feature(self.has_interrupt_delivery(), "APICv")?;
        feature(
            self.pin.contains(Pin::POSTED_INTERRUPTS),
            "posted-interrupts",
        )?;
        feature(
            self.secondary.contains(Secondary::TSC_SCALING),
            "TSC-scaling",
        )?;
        feature(self.secondary.contains(Secondary::XSAVES), "XSAVES")?;
        feature(self.secondary.contains(Secondary::INVPCID), "INVPCID")?;
        feature(self.secondary.contains(Secondary::WBINVD), "WBINVD-exits")?;
        feature(
            self.secondary.contains(Secondary::PAUSE_LOOP),
            "PAUSE-loop-exits",
        )?;
        feature(
            self.secondary.contains(Secondary::BUS_LOCK),
            "bus-lock-exits",
        )?;
        feature(
            self.secondary.contains(Secondary::INSTRUCTION_TIMEOUT),
            "notify-exits",
        )
    }
}

/// One capability MSR: bits that must be 1 (low half) and bits that may be 1 (high half).
#[derive(Clone, Copy)]
struct ControlRange {
    required: u32,
    allowed: u32,
}

impl ControlRange {
    fn new(msr: u64) -> Self {
        let half = |value: u64| u32::try_from(value & 0xFFFF_FFFF).expect("masked to 32 bits");
        Self {
            required: half(msr),
            allowed: half(msr >> 32),
        }
    }
    fn can(self, bits: u32) -> bool {
        self.allowed & bits == bits
    }
    /// What to write where `needed` must and `wished` may be there; `None` where a needed bit is missing.
    fn choose(self, needed: u32, wished: u32) -> Option<u32> {
        self.can(needed)
            .then_some(self.required | needed | (wished & self.allowed))
    }
}

/// The needed and the wished controls of a word; the refusal names the first that the CPU lacks.
fn choose(word: Word, range: ControlRange, switches: &Switches) -> Result<u32, Refusal> {
    let needed = controls::needed(word);
    let chosen = range.choose(needed, controls::wished(word, switches));
    chosen.ok_or_else(|| {
        let lacking = controls::first(word, needed & !range.allowed);
        let (name, why) = lacking.map_or(("a control", ""), |row| (row.name, row.why));
        Refusal::Missing(name, why)
    })
}

fn pin_controls(
    range: ControlRange,
    switches: &Switches,
    secondary: Secondary,
) -> Result<Pin, Refusal> {
    let pin = Pin::from_bits_retain(choose(Word::Pin, range, switches)?);
    if secondary.contains(Secondary::INTERRUPT_DELIVERY) {
        Ok(pin)
    } else {
        Ok(pin - Pin::POSTED_INTERRUPTS)
    }
}

fn primary_controls(range: ControlRange, switches: &Switches) -> Result<Primary, Refusal> {
    if !range.can(Primary::SECONDARY.bits()) {
        // without secondary controls there is no EPT either: the clearer message
        return Err(Refusal::NoEpt);
    }
    let primary = Primary::from_bits_retain(choose(Word::Primary, range, switches)?);
    // default-1 controls that must be off: with EPT the guest keeps CR3 to itself
    if range.required & (Primary::CR3_LOAD | Primary::CR3_STORE).bits() != 0 {
        return Err(Refusal::Missing(
            "VMX controls that leave CR3 to the guest",
            "with EPT it is the guest's own",
        ));
    }
    if primary.contains(Primary::TPR_SHADOW) {
        Ok(primary)
    } else {
        // without the shadow every CR8 access exits
        Ok(primary | Primary::CR8_LOAD | Primary::CR8_STORE)
    }
}

fn secondary_controls(
    range: ControlRange,
    switches: &Switches,
    primary: Primary,
) -> Result<Secondary, Refusal> {
    if !range.can(Secondary::EPT.bits()) {
        return Err(Refusal::NoEpt);
    }
    if !range.can(Secondary::UNRESTRICTED_GUEST.bits()) {
        return Err(Refusal::NoUnrestrictedGuest);
    }
    let apicv =
        Secondary::VIRTUAL_X2APIC | Secondary::APIC_REGISTERS | Secondary::INTERRUPT_DELIVERY;
    let switches = Switches {
        task_priority: primary.contains(Primary::TPR_SHADOW),
        // all of it or nothing
        delivery: switches.delivery && range.can(apicv.bits()),
        ..*switches
    };
    choose(Word::Secondary, range, &switches).map(Secondary::from_bits_retain)
}

/// IA32_VMX_EPT_VPID_CAP.
#[derive(Clone, Copy)]
struct EptVpid(u64);

impl EptVpid {
    fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }
    fn check(self) -> Result<(), Refusal> {
        let four_levels = self.has(6);
        let write_back = self.has(14);
        if !four_levels || !write_back {
            return Err(Refusal::Missing(
                "4-level write-back EPT",
                "guests' memory is mapped so",
            ));
        }
        let invept_single = self.has(20) && self.has(25);
        if invept_single {
            Ok(())
        } else {
            Err(Refusal::Missing(
                "single-context INVEPT",
                "memory taken from a guest must be forgotten",
            ))
        }
    }
    fn invvpid_single(self) -> bool {
        self.has(32) && self.has(41)
    }
}

#[cfg(test)]
mod tests;
