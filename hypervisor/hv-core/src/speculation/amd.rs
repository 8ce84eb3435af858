//! AMD's CPUs: what they have to defend themselves with, their weaknesses, and what is done.
//!
//! L1TF, MDS and their kin, and branch-history injection, are Intel's. What AMD's CPUs have instead lies in how they
//! predict returns: against branch-type confusion and SRSO there is an IBPB at every VM exit, as in Xen, though it
//! costs more than all else that an exit does; where it is enough, BP_SPEC_REDUCE is set once in its place.

use super::{CpuFacts, Defences, Means, Weakness};
use crate::cpuid::{HostCpuid, family_and_model};

/// Family 17h, 18h and the one of Zen 3 and 4.
const ZEN: u32 = 0x17;
const HYGON: u32 = 0x18;
const ZEN_3: u32 = 0x19;
const ZEN_5: u32 = 0x1a;

/// Leaf 1, ECX: this is a virtual machine.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 0x80000008, EBX.
const IBPB: u32 = 1 << 12;
const BTC_NO: u32 = 1 << 29;
/// Leaf 0x80000021, EAX, and the two bits of ECX.
const VERW_CLEAR: u32 = 1 << 5;
const IBPB_BRTYPE: u32 = 1 << 28;
const TSA_NO: u32 = 0b110;

/// The first microcode of Zen 2 that mends Zenbleed, by models: first, last, revision.
const ZENBLEED_MENDED: [(u32, u32, u32); 5] = [
    (0x30, 0x3f, 0x0830_107a),
    (0x60, 0x67, 0x0860_010b),
    (0x68, 0x6f, 0x0860_8105),
    (0x70, 0x7f, 0x0870_1032),
    (0xa0, 0xaf, 0x08a0_0008),
];

/// The first microcode of Zen 3 and 4 with which VERW overwrites buffers: those before have the same upper 24 bits.
const VERW_CLEARS: [u32; 16] = [
    0x0a00_11d7,
    0x0a00_123b,
    0x0a00_820d,
    0x0a10_114c,
    0x0a10_124c,
    0x0a10_8109,
    0x0a20_102e,
    0x0a20_1211,
    0x0a40_4108,
    0x0a50_0012,
    0x0a60_120a,
    0x0a70_4108,
    0x0a70_5208,
    0x0a70_8008,
    0x0a70_c008,
    0x0aa0_0216,
];

fn is_zen_1(signature: u32) -> bool {
    match family_and_model(signature) {
        (ZEN, model) => matches!(model, 0..=0x2f | 0x50..=0x5f),
        (family, _) => family == HYGON,
    }
}

fn is_zen_2(signature: u32) -> bool {
    family_and_model(signature).0 == ZEN && !is_zen_1(signature)
}

/// Adds to CPUID what family and microcode stand for without a word, so that guests find it there, as Xen does. A CPU
/// that a hypervisor shows may be another tomorrow: its word counts.
pub(super) fn complete(cpuid: &mut HostCpuid, patch_level: u64) {
    let one = cpuid.get(1, 0);
    if one.ecx & HYPERVISOR != 0 {
        return;
    }
    let (family, _) = family_and_model(one.eax);
    let [low, _] = halves(patch_level);
    let clears = |first: &u32| low >> 8 == first >> 8 && low >= *first;
    let mut eight = cpuid.get(0x8000_0008, 0);
    let mut more = cpuid.get(0x8000_0021, 0);
    if family < ZEN_3 && eight.ebx & IBPB != 0 {
        more.eax |= IBPB_BRTYPE;
    }
    if family == ZEN_3 {
        eight.ebx |= BTC_NO;
    }
    if family != ZEN_3 {
        more.ecx |= TSA_NO;
    } else if VERW_CLEARS.iter().any(clears) {
        more.eax |= VERW_CLEAR;
    }
    cpuid.set(0x8000_0008, eight);
    cpuid.set(0x8000_0021, more);
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes)
}

/// What the CPU has to defend itself with, and which weaknesses it says that it has not, by CPUID and the revision of
/// its microcode.
pub(super) fn means_and_immunity(cpuid: &HostCpuid, patch_level: u64) -> (Means, Weakness) {
    let [low, _] = halves(patch_level);
    let signature = cpuid.get(1, 0).eax;
    let eight = cpuid.get(0x8000_0008, 0).ebx;
    let more = cpuid.get(0x8000_0021, 0);
    let mut means = Means::empty();
    let has_ibpb = eight & IBPB != 0;
    means.set(Means::IBPB, has_ibpb);
    means.set(Means::IBRS_IBPB, has_ibpb && eight & 1 << 14 != 0);
    means.set(Means::IBRS_ALWAYS, eight & 1 << 16 != 0);
    means.set(Means::SSBD, eight & 1 << 24 != 0);
    means.set(Means::AUTO_IBRS, more.eax & 1 << 8 != 0);
    means.set(Means::SPEC_REDUCE, more.eax & 1 << 31 != 0);
    means.set(Means::MD_CLEAR, more.eax & VERW_CLEAR != 0);
    means.set(Means::FP_BACKUP_FIX, is_zen_2(signature));
    means.set(Means::IBPB_BRTYPE, has_ibpb && more.eax & IBPB_BRTYPE != 0);
    let mut immune = Weakness::empty();
    immune.set(Weakness::BTC, eight & BTC_NO != 0);
    immune.set(Weakness::SRSO, more.eax & 1 << 29 != 0);
    immune.set(Weakness::TSA, more.ecx & TSA_NO == TSA_NO);
    immune.set(Weakness::ZENBLEED, has_zenbleed_mended(signature, low));
    (means, immune)
}

fn has_zenbleed_mended(signature: u32, patch_level: u32) -> bool {
    let (_, model) = family_and_model(signature);
    let mut rows = ZENBLEED_MENDED.iter();
    rows.any(|(first, last, revision)| {
        (*first..=*last).contains(&model) && patch_level >= *revision
    })
}

/// The weaknesses of the CPU.
pub(super) fn weaknesses(facts: &CpuFacts) -> Weakness {
    let (family, _) = family_and_model(facts.signature);
    let mut found = Weakness::BTI | Weakness::RSB;
    found.set(Weakness::BTC, (0x15..ZEN_3).contains(&family));
    found.set(Weakness::SRSO, (ZEN..=ZEN_5).contains(&family));
    found.set(Weakness::TSA, family == ZEN_3);
    found.set(Weakness::ZENBLEED, is_zen_2(facts.signature));
    found.set(Weakness::DIV, is_zen_1(facts.signature));
    found - facts.immune
}

/// What the CPU can be made to do, whether it needs it or not.
pub(super) fn possible(facts: &CpuFacts) -> Defences {
    // plain instructions
    let mut possible = Defences::VERW | Defences::RSB_STUFF;
    let has = |means| facts.means.contains(means);
    possible.set(Defences::IBRS, has(Means::IBRS_IBPB));
    possible.set(
        Defences::IBRS_ENHANCED,
        has(Means::IBRS_IBPB | Means::IBRS_ALWAYS),
    );
    possible.set(Defences::SSBD, has(Means::IBRS_IBPB | Means::SSBD));
    possible.set(Defences::GUEST_CONTROLS, has(Means::IBRS_IBPB));
    possible.set(
        Defences::IBPB_DOMAIN | Defences::IBPB_ENTRY | Defences::GUEST_IBPB,
        has(Means::IBPB),
    );
    possible.set(Defences::AUTO_IBRS, has(Means::AUTO_IBRS));
    possible.set(Defences::SPEC_REDUCE, has(Means::SPEC_REDUCE));
    possible.set(Defences::FP_BACKUP_FIX, has(Means::FP_BACKUP_FIX));
    possible
}

/// What is done where `spec-ctrl` says nothing.
pub(super) fn default(facts: &CpuFacts, weaknesses: Weakness) -> Defences {
    let possible = possible(facts);
    let reduces = weaknesses.contains(Weakness::SRSO) && possible.contains(Defences::SPEC_REDUCE);
    let forgets_types = facts.means.contains(Means::IBPB_BRTYPE);
    let needs_barrier = weaknesses.contains(Weakness::BTC)
        || weaknesses.contains(Weakness::SRSO) && forgets_types && !reduces;
    let mut wanted = possible
        & (Defences::AUTO_IBRS
            | Defences::IBPB_DOMAIN
            | Defences::GUEST_CONTROLS
            | Defences::GUEST_IBPB);
    if needs_barrier {
        wanted |= possible & Defences::IBPB_ENTRY;
    }
    if !wanted.contains(Defences::AUTO_IBRS) {
        wanted |= possible & (Defences::IBRS | Defences::IBRS_ENHANCED);
        // with neither a guest steers indirect branches anyway
        let steers_none = wanted.intersects(Defences::IBRS | Defences::IBPB_ENTRY);
        wanted.set(Defences::RSB_STUFF, steers_none);
    }
    let clears = weaknesses.contains(Weakness::TSA) && facts.means.contains(Means::MD_CLEAR);
    wanted.set(Defences::VERW, clears);
    wanted.set(Defences::SPEC_REDUCE, reduces);
    if weaknesses.contains(Weakness::ZENBLEED) {
        wanted |= possible & Defences::FP_BACKUP_FIX;
    }
    wanted
}

/// The weaknesses against which nothing is done, or nothing can be.
pub(super) fn left_over(facts: &CpuFacts, weaknesses: Weakness, defences: Defences) -> Weakness {
    let mut left = weaknesses;
    let does_any = |any| defences.intersects(any);
    let keeps_apart =
        does_any(Defences::IBRS | Defences::AUTO_IBRS) && does_any(Defences::IBPB_DOMAIN);
    if keeps_apart || does_any(Defences::IBPB_ENTRY) {
        left -= Weakness::BTI;
    }
    if does_any(Defences::IBPB_ENTRY) && facts.means.contains(Means::IBPB_BRTYPE) {
        left -= Weakness::BTC | Weakness::SRSO;
    }
    if does_any(Defences::RSB_STUFF | Defences::AUTO_IBRS) {
        left -= Weakness::RSB;
    }
    if does_any(Defences::VERW) && facts.means.contains(Means::MD_CLEAR) {
        left -= Weakness::TSA;
    }
    if does_any(Defences::SPEC_REDUCE) {
        left -= Weakness::SRSO;
    }
    if does_any(Defences::FP_BACKUP_FIX) {
        left -= Weakness::ZENBLEED;
    }
    left
}
