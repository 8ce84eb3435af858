//! States written to records and read back.

use hv_core::cpuid::{CpuidOptions, CpuidRegs, HostCpuid, Provides, TscInfo};
use hv_core::msr::HostMsrs;
use hv_hw::virt::{SEGMENT_CS, SEGMENT_LDTR, SEGMENT_UNUSABLE};

use super::*;

const TSC: TscInfo = TscInfo {
    host_khz: 2_000_000,
    guest_khz: 2_000_000,
    mode: 0,
    incarnation: 0,
    offset: 0,
    mul: 1 << 31,
    shift: 0,
};

/// A CPU with XSAVE of x87, SSE and AVX, long mode and NX.
fn cpuid() -> CpuidPolicy {
    const AVX_AND_XSAVE: u32 = 1 << 26 | 1 << 28;
    let regs = |eax, ebx, ecx, edx| CpuidRegs { eax, ebx, ecx, edx };
    let host = HostCpuid::read(|leaf, subleaf| match (leaf, subleaf) {
        (0, _) => regs(0xD, 0, 0, 0),
        (1, _) => regs(0x5_0654, 0, AVX_AND_XSAVE, 0x0780_FBFF),
        (0xD, 0) => regs(7, 832, 832, 0),
        (0xD, 2) => regs(256, 576, 0, 0),
        (0x8000_0000, _) => regs(0x8000_0008, 0, 0, 0),
        (0x8000_0001, _) => regs(0, 0, 1, 0x2810_0800),
        (0x8000_0008, _) => regs(0x3028, 0, 0, 0),
        _ => regs(0, 0, 0, 0),
    });
    let options = CpuidOptions {
        domid: 1,
        vcpus: 1,
        provides: Provides::empty(),
        xcr0_switched: 7,
        stage2_bits: 48,
        tsc: TSC,
    };
    CpuidPolicy::build(&host, &options)
}

/// A vCPU of a 64-bit kernel, with no two registers alike.
fn running() -> VcpuState {
    let mut regs = GuestRegs::default();
    for (n, gpr) in (0x100..).zip(&mut regs.gpr) {
        *gpr = n;
    }
    regs.gpr[RSP] = 0;
    let mut system = SystemRegs {
        cr0: 0x8005_0033,
        cr3: 0x1234_5000,
        cr4: 0x6F0,
        efer: 0xD01,
        rip: 0xFFFF_FFFF_8100_0000,
        rsp: 0xFFFF_8880_0000_1000,
        rflags: 0x246,
        dr7: 0x400,
        ..SystemRegs::default()
    };
    for (n, segment) in (1u16..).zip(&mut system.segments) {
        *segment = Segment {
            selector: n * 8,
            base: u64::from(n) << 20,
            limit: 0xF_FFFF + u32::from(n),
            access: 0xC093,
        };
    }
    system.segments[SEGMENT_CS].access = 0xA09B;
    system.segments[SEGMENT_LDTR].access = SEGMENT_UNUSABLE;
    system.gdtr = DescriptorTable {
        base: 0xFFFF_FE00_0000_1000,
        limit: 0x7F,
    };
    system.idtr = DescriptorTable {
        base: 0xFFFF_FE00_0000_0000,
        limit: 0xFFF,
    };
    let mut state = VcpuState::starting(regs, system);
    state.system.sysenter_cs = 0x10;
    state.system.sysenter_esp = 0x2000;
    state.system.sysenter_eip = 0x3000;
    state.system.lstar = 0xFFFF_FFFF_8180_0000;
    state.system.star = 0x0023_0010_0000_0000;
    state.system.fmask = 0x4_7700;
    state.system.kernel_gs_base = 0x7000;
    state.system.tsc_aux = 5;
    state.system.cr2 = 0xDEAD_B000;
    state.system.debug = [1, 2, 3, 4, 0xFFFF_0FF1];
    state.extended[..600].fill(0x11);
    state.extended[512..576].fill(0);
    state.extended[512] = 7;
    state.system.xcr0 = 7;
    state
}

#[test]
fn registers_come_back_from_their_record() {
    let (state, cpuid) = (running(), cpuid());
    let record = state.cpu_record(77);
    assert_eq!((record.tsc, record.gprs[7]), (77, state.system.rsp));
    assert_eq!((record.gprs[1], record.gprs[15]), (0x103, 0x10F));
    assert_eq!(record.arbytes[segment::CS], 0xA9B);
    assert_eq!(record.arbytes[segment::LDTR] & 0x80, 0);
    let mut back = VcpuState::starting(GuestRegs::default(), SystemRegs::default());
    assert_eq!(back.take_cpu(&record, &cpuid), Ok(()));
    // XCR0 comes with extended state
    let system = SystemRegs {
        xcr0: 1,
        ..state.system
    };
    assert_eq!((back.regs, back.system), (state.regs, system));
    let legacy = |s: &VcpuState| s.extended[..512].to_vec();
    assert_eq!(legacy(&back), legacy(&state));
}

#[test]
fn extended_state_comes_back_from_its_record() {
    let (state, cpuid) = (running(), cpuid());
    let record = state.xsave_record(&cpuid).unwrap_or_default();
    assert_eq!(record.len(), 24 + 832);
    let mut back = VcpuState::starting(GuestRegs::default(), SystemRegs::default());
    assert_eq!(back.take_xsave(&record, &cpuid), Ok(()));
    assert_eq!(back.system.xcr0, 7);
    assert_eq!(back.extended[..832], state.extended[..832]);
    // another hypervisor's is longer
    let mut longer = record.clone();
    longer.resize(2696, 0);
    assert_eq!(back.take_xsave(&longer, &cpuid), Ok(()));
    longer[2000] = 1;
    assert_eq!(back.take_xsave(&longer, &cpuid), Err(BadRecord::TooLong));
}

#[test]
fn extended_state_that_the_domain_has_not_is_refused() {
    let (state, cpuid) = (running(), cpuid());
    let good = state.xsave_record(&cpuid).unwrap_or_default();
    let mut back = running();
    // XCR0, XCR0_ACCUM, XSTATE_BV, XCOMP_BV, a reserved word
    for (at, value) in [(8, 6), (9, 2), (16, 0x0F), (536, 0x17), (544, 1), (552, 1)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(
            back.take_xsave(&bad, &cpuid),
            Err(BadRecord::Values),
            "byte {at}"
        );
    }
    assert_eq!(
        back.take_xsave(&good[..599], &cpuid),
        Err(BadRecord::CutShort)
    );
}

#[test]
fn selectors_and_limits_have_16_bits() {
    let cpuid = cpuid();
    let good = running().cpu_record(0);
    for change in [
        |c: &mut HvmHwCpu| c.sel[segment::DS] = 0x1_0000,
        |c: &mut HvmHwCpu| c.limit[segment::GDTR] = 0x1_0000,
    ] {
        let mut bad = good;
        change(&mut bad);
        let mut state = running();
        assert_eq!(state.take_cpu(&bad, &cpuid), Err(BadRecord::Values));
        assert_eq!(state.regs, running().regs);
    }
}

#[test]
fn msrs_that_the_domain_has_not_are_refused() {
    let msrs = MsrPolicy::build(&cpuid(), &HostMsrs::default());
    let msr = |index, val| HvmOneMsr {
        index,
        _rsvd: 0,
        val,
    };
    let mut state = running();
    assert_eq!(state.take_msr(&msr(number::IA32_XSS, 0), &msrs), Ok(()));
    for (index, value) in [
        (number::IA32_XSS, 1),
        (number::IA32_SPEC_CTRL, 1),
        (0x10, 0),
    ] {
        assert_eq!(
            state.take_msr(&msr(index, value), &msrs),
            Err(BadRecord::Values)
        );
    }
    assert!(state.msr_record(&msrs).is_empty());
    let faulting = msr(number::MSR_MISC_FEATURES_ENABLES, 1);
    assert_eq!(state.take_msr(&faulting, &msrs), Ok(()));
    let record = state.msr_record(&msrs);
    assert_eq!(record.len(), 1);
    assert_eq!((record[0].index, record[0].val), (faulting.index, 1));
}
