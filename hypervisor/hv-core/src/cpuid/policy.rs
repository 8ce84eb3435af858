//! CPUID in the form that toolstacks exchange: feature words, and sorted leaves.
//!
//! The form ends at leaf 0xD: what we show above (0x16) is ours to add, and a toolstack that writes a policy back as it
//! read it changes nothing. What it takes away stays away, with all that depends on it; what it adds beyond the most
//! that the domain may have is left out, as on Xen; leaves that the form has not, and more leaves than there may be,
//! are refused. Topology and sizes are the hypervisor's, whatever it says.
//!
//! Source: `public/arch-x86/cpufeatureset.h`, `public/sysctl.h, XEN_SYSCTL_get_cpu_policy`,
//! `public/domctl.h, XEN_DOMCTL_set_cpu_policy`.

use arrayvec::ArrayVec;

use super::amd;
use super::build::LAST_BASIC;
use super::{
    CpuidLeaf, CpuidOptions, CpuidPolicy, CpuidRegs, EXTENDED, HostCpuid, LAST_EXTENDED, VcpuView,
    Vendor, VendorName,
};

/// How many feature words there are in release 4.17.
pub const FEATURE_WORDS: usize = 18;
/// The most leaves of a policy in release 4.17.
pub const MAX_POLICY_LEAVES: usize = 120;

/// The last basic leaf of the form.
const LAST_FORMAL_BASIC: u32 = 0xd;
/// The last extended leaf of the form.
const LAST_FORMAL_EXTENDED: u32 = LAST_EXTENDED;
/// Where the hypervisors' own leaves could be limited, for Xen and for Hyper-V.
const HYPERVISORS: [u32; 2] = [0x4000_0000, 0x4000_0100];
const CACHE_SUBLEAVES: u32 = 6;
const FEATURE_SUBLEAVES: u32 = 3;
const TOPOLOGY_SUBLEAVES: u32 = 2;
const STATE_SUBLEAVES: u32 = 63;
/// The narrowest physical address that a CPU with PAE has, in bits.
const NARROWEST_PHYSICAL: u8 = 36;

/// The leaves of a policy, in ascending order of leaf and subleaf.
pub type PolicyLeaves = ArrayVec<CpuidLeaf, MAX_POLICY_LEAVES>;

/// Why a leaf of a policy is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeafRefused {
    /// The form has no such leaf.
    Unknown { leaf: u32, subleaf: u32 },
    /// It says what a domain cannot have here: more leaves than there are.
    TooMuch { leaf: u32, subleaf: u32 },
    /// It is of another vendor's CPU: another instruction calls the hypervisor there, and other registers exist.
    OtherVendor {
        theirs: VendorName,
        ours: VendorName,
    },
}

/// What a domain is to have, at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) words: [u32; FEATURE_WORDS],
    pub(super) last_basic: u32,
    pub(super) last_extended: u32,
    pub(super) last_feature_subleaf: u32,
    pub(super) physical_bits: u8,
    /// Family, model and stepping, and the brand string, where they are not the host's.
    pub(super) identity: Option<(u32, [CpuidRegs; 3])>,
}

impl Wanted {
    /// All that there is.
    pub(super) const ALL: Self = Self {
        words: [u32::MAX; FEATURE_WORDS],
        last_basic: LAST_BASIC,
        last_extended: LAST_EXTENDED,
        last_feature_subleaf: FEATURE_SUBLEAVES - 1,
        physical_bits: u8::MAX,
        identity: None,
    };

    /// What the leaves that `get` finds ask for; those after the last count as empty.
    fn from_leaves(get: impl Fn(u32, u32) -> CpuidRegs) -> Self {
        const NONE: u32 = CpuidLeaf::NO_SUBLEAF;
        const XSAVE: u32 = 1 << 26;
        let last_basic = get(0, NONE).eax;
        let last_extended = get(EXTENDED, NONE).eax.clamp(EXTENDED, LAST_EXTENDED);
        let last_feature_subleaf = get(7, 0).eax;
        let query = |leaf: u32, subleaf: u32| {
            let last = if leaf < EXTENDED {
                last_basic
            } else {
                last_extended
            };
            if leaf > last || leaf == 7 && subleaf > last_feature_subleaf {
                return CpuidRegs::default();
            }
            let has_subleaves = matches!(leaf, 4 | 7 | 0xb | 0xd);
            get(leaf, if has_subleaves { subleaf } else { NONE })
        };
        let mut words = feature_words(query, u64::MAX);
        if last_basic < 0xd {
            words[1] &= !XSAVE;
        }
        let is_whole = last_basic == LAST_FORMAL_BASIC;
        Self {
            words,
            last_basic: if is_whole { LAST_BASIC } else { last_basic },
            last_extended,
            last_feature_subleaf,
            physical_bits: query(EXTENDED + 8, 0).eax.to_le_bytes()[0].max(NARROWEST_PHYSICAL),
            identity: Some((
                query(1, 0).eax,
                [2, 3, 4].map(|leaf| query(EXTENDED + leaf, 0)),
            )),
        }
    }
}

/// The feature words of a CPU that answers CPUID by `query` and has `arch_capabilities` in IA32_ARCH_CAPABILITIES.
fn feature_words(
    query: impl Fn(u32, u32) -> CpuidRegs,
    arch_capabilities: u64,
) -> [u32; FEATURE_WORDS] {
    let [one, seven, seven_1, seven_2] = [(1, 0), (7, 0), (7, 1), (7, 2)].map(|(l, s)| query(l, s));
    let extended = |leaf: u32| query(EXTENDED | leaf, 0);
    let [a, b, c, d, e, f, g, h] = arch_capabilities.to_le_bytes();
    [
        one.edx,
        one.ecx,
        extended(1).edx,
        extended(1).ecx,
        query(0xd, 1).eax,
        seven.ebx,
        seven.ecx,
        extended(7).edx,
        extended(8).ebx,
        seven.edx,
        seven_1.eax,
        extended(0x21).eax,
        seven_1.ebx,
        seven_2.edx,
        seven_1.ecx,
        seven_1.edx,
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

/// The leaves of a CPU that answers CPUID by `query`, in the form that toolstacks know.
fn formal_leaves(query: impl Fn(u32, u32) -> CpuidRegs) -> PolicyLeaves {
    let mut leaves = PolicyLeaves::new();
    let mut put = |leaf: u32, subleaf: u32, regs: CpuidRegs| {
        leaves.push(CpuidLeaf {
            leaf,
            subleaf,
            regs,
        });
    };
    let first = query(0, 0);
    let last_basic = first.eax.min(LAST_FORMAL_BASIC);
    put(
        0,
        CpuidLeaf::NO_SUBLEAF,
        CpuidRegs {
            eax: last_basic,
            ..first
        },
    );
    for leaf in 1..=last_basic {
        match subleaves(leaf, &query) {
            None => put(leaf, CpuidLeaf::NO_SUBLEAF, query(leaf, 0)),
            Some(count) => (0..count).for_each(|n| put(leaf, n, query(leaf, n))),
        }
    }
    for leaf in HYPERVISORS {
        put(leaf, CpuidLeaf::NO_SUBLEAF, CpuidRegs::default());
    }
    let last_extended = query(EXTENDED, 0).eax.clamp(EXTENDED, LAST_FORMAL_EXTENDED);
    for leaf in EXTENDED..=last_extended {
        put(leaf, CpuidLeaf::NO_SUBLEAF, query(leaf, 0));
    }
    leaves
}

/// How many subleaves the form has of `leaf`; `None` for a leaf without any.
fn subleaves(leaf: u32, query: impl Fn(u32, u32) -> CpuidRegs) -> Option<u32> {
    // the first that is empty belongs to it, as the end
    let up_to_empty = |most: u32, is_empty: &dyn Fn(CpuidRegs) -> bool| {
        let end = (0..most).find(|n| is_empty(query(leaf, *n)));
        end.map_or(most, |n| n + 1)
    };
    match leaf {
        4 => Some(up_to_empty(CACHE_SUBLEAVES, &|r| r.eax & 0x1f == 0)),
        7 => Some(query(7, 0).eax.min(FEATURE_SUBLEAVES - 1) + 1),
        0xb => Some(up_to_empty(TOPOLOGY_SUBLEAVES, &|r| r.ecx & 0xff00 == 0)),
        0xd => {
            let (user, supervisor) = (query(0xd, 0), query(0xd, 1));
            let states =
                u64::from(user.eax | supervisor.ecx) | u64::from(user.edx | supervisor.edx) << 32;
            let end = u64::BITS - states.leading_zeros();
            Some(end.clamp(2, STATE_SUBLEAVES))
        }
        _ => None,
    }
}

/// Whether the form has the leaf.
fn is_known(leaf: u32, subleaf: u32) -> bool {
    match leaf {
        4 => subleaf < CACHE_SUBLEAVES,
        7 => subleaf < FEATURE_SUBLEAVES,
        0xb => subleaf < TOPOLOGY_SUBLEAVES,
        0xd => subleaf < STATE_SUBLEAVES,
        0..=LAST_FORMAL_BASIC | EXTENDED..=LAST_FORMAL_EXTENDED => subleaf == CpuidLeaf::NO_SUBLEAF,
        _ => HYPERVISORS.contains(&leaf) && subleaf == CpuidLeaf::NO_SUBLEAF,
    }
}

impl HostCpuid {
    /// The feature words of the host, with `arch_capabilities` in IA32_ARCH_CAPABILITIES.
    #[must_use]
    pub fn feature_words(&self, arch_capabilities: u64) -> [u32; FEATURE_WORDS] {
        feature_words(|leaf, subleaf| self.get(leaf, subleaf), arch_capabilities)
    }

    /// The leaves of the host.
    #[must_use]
    pub fn policy_leaves(&self) -> PolicyLeaves {
        formal_leaves(|leaf, subleaf| self.get(leaf, subleaf))
    }
}

impl CpuidPolicy {
    /// The feature words of the domain, with `arch_capabilities` in IA32_ARCH_CAPABILITIES.
    #[must_use]
    pub fn feature_words(&self, arch_capabilities: u64) -> [u32; FEATURE_WORDS] {
        feature_words(self.of_no_vcpu(), arch_capabilities)
    }

    /// The leaves of the domain.
    #[must_use]
    pub fn policy_leaves(&self) -> PolicyLeaves {
        formal_leaves(self.of_no_vcpu())
    }

    /// CPUID without what depends on the vCPU.
    fn of_no_vcpu(&self) -> impl Fn(u32, u32) -> CpuidRegs + '_ {
        let vcpu = VcpuView {
            xcr0: self.xcr0_allowed(),
            ..VcpuView::default()
        };
        move |leaf, subleaf| self.query(leaf, subleaf, &vcpu)
    }

    /// The policy that a toolstack wants in place of this one: `leaves` are those that it gives, in any order; others
    /// stay as they are. `host` and `options` say what the domain may have at most.
    ///
    /// # Errors
    /// [`LeafRefused`], and the policy stays.
    pub fn replaced(
        &self,
        host: &HostCpuid,
        options: &CpuidOptions,
        leaves: &[CpuidLeaf],
    ) -> Result<Self, LeafRefused> {
        if let Some(odd) = leaves.iter().find(|l| !is_known(l.leaf, l.subleaf)) {
            return Err(LeafRefused::Unknown {
                leaf: odd.leaf,
                subleaf: odd.subleaf,
            });
        }
        let current = self.policy_leaves();
        let get = |leaf, subleaf| {
            let given = leaves.iter().rev().chain(&current);
            let mut given = given.filter(|l| l.leaf == leaf && l.subleaf == subleaf);
            given.next().map_or(CpuidRegs::default(), |l| l.regs)
        };
        let most = Self::build(host, options).policy_leaves();
        audit(&most, get)?;
        Ok(Self::build_within(host, options, &Wanted::from_leaves(get)))
    }
}

/// Checks that the leaves that `get` finds are no more than those of `most`.
fn audit(most: &[CpuidLeaf], get: impl Fn(u32, u32) -> CpuidRegs) -> Result<(), LeafRefused> {
    const NONE: u32 = CpuidLeaf::NO_SUBLEAF;
    for (leaf, subleaf) in [(0, NONE), (7, 0), (EXTENDED, NONE)] {
        let found = most.iter().find(|l| l.leaf == leaf && l.subleaf == subleaf);
        let bound = found.map_or(CpuidRegs::default(), |l| l.regs);
        let wanted = get(leaf, subleaf);
        let [theirs, ours] = [wanted, bound].map(VendorName::of);
        if leaf == 0 && theirs != ours {
            return Err(LeafRefused::OtherVendor { theirs, ours });
        }
        if wanted.eax > bound.eax {
            return Err(LeafRefused::TooMuch { leaf, subleaf });
        }
    }
    Ok(())
}

/// Takes the leaves away that are after the last ones of `wanted`.
pub(super) fn cut(policy: &mut CpuidPolicy, wanted: &Wanted) {
    let last = wanted.last_basic.min(policy.basic[0].eax);
    policy.basic[0].eax = last;
    for (_, leaf) in (0..).zip(&mut policy.basic).filter(|(n, _)| *n > last) {
        *leaf = CpuidRegs::default();
    }
    let last_feature = if last < 7 {
        None
    } else {
        Some(wanted.last_feature_subleaf)
    };
    for (n, leaf) in (0..).zip(&mut policy.features.leaf7) {
        if last_feature.is_none_or(|last| n > last) {
            *leaf = CpuidRegs::default();
        }
    }
    policy.features.leaf7[0].eax = last_feature.unwrap_or(0).min(FEATURE_SUBLEAVES - 1);
    if last < 0xb {
        policy.topology = Default::default();
    }
    let last_extended = wanted.last_extended.min(policy.extended[0].eax);
    policy.extended[0].eax = last_extended;
    cut_caches(policy, last, last_extended);
    for (_, leaf) in (EXTENDED..)
        .zip(&mut policy.extended)
        .filter(|(n, _)| *n > last_extended)
    {
        *leaf = CpuidRegs::default();
    }
    if let Some((signature, brand)) = wanted.identity {
        identify(policy, signature, brand);
    }
}

fn cut_caches(policy: &mut CpuidPolicy, last_basic: u32, last_extended: u32) {
    let has_caches = match policy.vendor {
        Vendor::Intel => last_basic >= 4,
        Vendor::Amd => last_extended >= amd::TOPOLOGY,
    };
    if !has_caches {
        policy.caches = Default::default();
    }
    if last_extended < amd::TOPOLOGY {
        policy.features.drop_topology_extensions();
        policy.extended[1].ecx = policy.features.extended1.ecx;
    }
}

fn identify(policy: &mut CpuidPolicy, signature: u32, brand: [CpuidRegs; 3]) {
    policy.basic[1].eax = signature;
    policy.features.leaf1.eax = signature;
    if policy.vendor == Vendor::Amd {
        policy.extended[1].eax = signature;
    }
    for (leaf, text) in policy.extended.iter_mut().skip(2).zip(brand) {
        *leaf = text;
    }
}

#[cfg(test)]
mod tests;
