//! What CPUID and MSRs are for a domain. Each vCPU that runs holds an own reference, so that its exits take no lock.

use alloc::sync::Arc;

use hv_core::cpuid::{CpuidOptions, CpuidPolicy, TscInfo};
use hv_core::domid::DomId;
use hv_core::msr::MsrPolicy;
use hv_core::vcpu::time::{ClockScale, GuestTsc};

use crate::machine::host;

/// four levels of second-stage tables.
pub(crate) const STAGE2_BITS: u8 = 48;

/// The policies of one domain. They never change: others take their place.
#[derive(Debug)]
pub(crate) struct Policies {
    pub cpuid: CpuidPolicy,
    pub msrs: MsrPolicy,
    pub tsc: GuestTsc,
}

impl Policies {
    /// The policies that a domain starts with: all that the host has and we serve.
    #[must_use]
    pub(crate) fn of_host(id: DomId, vcpus: u16) -> Arc<Self> {
        let cpuid = CpuidPolicy::build(&host::host().cpuid, &Self::options(id, vcpus));
        let host_msrs = host::host().msrs;
        let msrs = match id {
            DomId::DOM0 => MsrPolicy::build(&cpuid, &host_msrs),
            _ => MsrPolicy::build(&cpuid, &host_msrs.for_guest()),
        };
        let tsc = GuestTsc::native(host::host().tsc_khz);
        Arc::new(Self { cpuid, msrs, tsc })
    }

    /// The same policies with another TSC, of that mode and incarnation.
    #[must_use]
    pub(crate) fn with_tsc(&self, tsc: GuestTsc, (mode, incarnation): (u32, u32)) -> Arc<Self> {
        let scale = clock_of(tsc);
        let info = TscInfo {
            host_khz: host::host().tsc_khz,
            guest_khz: tsc.khz(),
            mode,
            incarnation,
            offset: 0,
            mul: scale.mul(),
            shift: scale.shift(),
        };
        let cpuid = self.cpuid.with_tsc(&info);
        let msrs = self.msrs.clone();
        Arc::new(Self { cpuid, msrs, tsc })
    }

    /// The policies of a guest with the same TSC and this CPUID, and of IA32_ARCH_CAPABILITIES no more than
    /// `arch_capabilities`.
    #[must_use]
    pub(crate) fn within(&self, cpuid: CpuidPolicy, arch_capabilities: u64) -> Arc<Self> {
        let mut host_msrs = host::host().msrs.for_guest();
        host_msrs.arch_capabilities &= arch_capabilities;
        let msrs = MsrPolicy::build(&cpuid, &host_msrs);
        let tsc = self.tsc;
        Arc::new(Self { cpuid, msrs, tsc })
    }

    /// What makes the CPUID of a domain its own.
    #[must_use]
    pub(crate) fn options(id: DomId, vcpus: u16) -> CpuidOptions {
        let host = host::host();
        CpuidOptions {
            domid: id.get(),
            vcpus: u32::from(vcpus),
            provides: host.provides,
            xcr0_switched: host.xcr0,
            stage2_bits: STAGE2_BITS,
            tsc: TscInfo {
                host_khz: host.tsc_khz,
                guest_khz: host.tsc_khz,
                mode: 0,
                incarnation: 0,
                offset: 0,
                mul: host::clock().mul(),
                shift: host::clock().shift(),
            },
        }
    }
}

/// Ticks of a guest's TSC ↔ ns.
#[must_use]
pub(crate) fn clock_of(tsc: GuestTsc) -> ClockScale {
    ClockScale::from_tsc_khz(tsc.khz()).unwrap_or_else(host::clock)
}
