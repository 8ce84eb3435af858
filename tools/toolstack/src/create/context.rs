//! The first vCPU's registers at a PVH entry, and what all vCPUs' memory types start from.
//!
//! Written as the records of an HVM context; the header comes from the hypervisor, as it must fit its own.
//!
//! Source: "x86/HVM direct boot ABI"; `public/arch-x86/hvm/save.h`.

use guest_abi::Errno;
use guest_abi::hvm::save::{
    HVM_SAVE_CODE_CPU, HVM_SAVE_CODE_END, HVM_SAVE_CODE_HEADER, HVM_SAVE_CODE_MTRR, HvmHwCpu,
    HvmHwMtrr, HvmSaveDescriptor, segment,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::config::DomainConfig;
use crate::hypercall::HypercallError;
use crate::image::Image;
use crate::{Hyper, Result};

/// RBX among [`HvmHwCpu::gprs`].
const RBX: usize = 1;
/// CR0: protected mode, and the bit that is always set.
const CR0_PE_ET: u64 = 0x11;
/// Registers' values after reset.
const RFLAGS_RESET: u64 = 2;
const DR6_RESET: u64 = 0xFFFF_0FF0;
const DR7_RESET: u64 = 0x400;
/// Flat 32-bit segments: code, data; a busy 32-bit TSS.
const CODE: u32 = 0xC9B;
const DATA: u32 = 0xC93;
const TSS: u32 = 0x8B;
const TSS_LIMIT: u32 = 0x67;

/// Enabled, write-back where nothing else is said: Linux complains otherwise.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Loads the first vCPU, to start at the kernel's entry; all others stay down.
pub(crate) fn load(
    hyper: &Hyper,
    domid: u16,
    config: &DomainConfig,
    image: &Image<'_>,
) -> Result<()> {
    let present = hyper.get_hvm_context(domid)?;
    let missing = |what: &str| {
        HypercallError::new(
            "domctl gethvmcontext",
            format!("domain {domid}, it has no {what} record"),
            Errno::EINVAL,
        )
    };
    let header = record(&present, HVM_SAVE_CODE_HEADER).ok_or_else(|| missing("header"))?;
    let mut types = record(&present, HVM_SAVE_CODE_MTRR)
        .and_then(|types| HvmHwMtrr::read_from_bytes(types).ok())
        .ok_or_else(|| missing("MTRR"))?;
    types.msr_mtrr_def_type = MTRR_WRITE_BACK;
    let cpu = cpu(image.entry, image.start_info);
    let mut records = Vec::new();
    push(&mut records, (HVM_SAVE_CODE_HEADER, 0), header);
    push(&mut records, (HVM_SAVE_CODE_CPU, 0), cpu.as_bytes());
    for vcpu in 0..u16::try_from(config.max_vcpus).unwrap_or(u16::MAX) {
        push(&mut records, (HVM_SAVE_CODE_MTRR, vcpu), types.as_bytes());
    }
    push(&mut records, (HVM_SAVE_CODE_END, 0), &[]);
    Ok(hyper.set_hvm_context(domid, &records)?)
}

/// A CPU record at a PVH entry. FS and GS, of which the ABI says nothing, are flat as in dom0: Linux of 32 bits since
/// 5.13 reads its stack's canary through FS before it has loaded it.
fn cpu(entry: u64, start_info: u64) -> HvmHwCpu {
    let mut cpu = HvmHwCpu {
        rip: entry,
        rflags: RFLAGS_RESET,
        cr0: CR0_PE_ET,
        dr6: DR6_RESET,
        dr7: DR7_RESET,
        ..HvmHwCpu::new_zeroed()
    };
    cpu.gprs[RBX] = start_info;
    for flat in [
        segment::CS,
        segment::DS,
        segment::ES,
        segment::FS,
        segment::GS,
        segment::SS,
    ] {
        cpu.limit[flat] = u32::MAX;
        cpu.arbytes[flat] = if flat == segment::CS { CODE } else { DATA };
    }
    cpu.limit[segment::TR] = TSS_LIMIT;
    cpu.arbytes[segment::TR] = TSS;
    cpu
}

fn push(records: &mut Vec<u8>, (typecode, instance): (u16, u16), body: &[u8]) {
    let head = HvmSaveDescriptor {
        typecode,
        instance,
        length: u32::try_from(body.len()).expect("records are small"),
    };
    records.extend(head.as_bytes());
    records.extend(body);
}

/// The first record of a type.
fn record(mut records: &[u8], kind: u16) -> Option<&[u8]> {
    while let Ok((head, rest)) = HvmSaveDescriptor::read_from_prefix(records) {
        let size = usize::try_from(head.length).ok()?;
        let (body, next) = rest.split_at_checked(size)?;
        if head.typecode == kind {
            return Some(body);
        }
        records = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_puts_registers_where_xen_has_them() {
        let cpu = cpu(0x100_0850, 0x3e0_0000);
        let bytes = cpu.as_bytes();
        let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        assert_eq!(
            (word(520), word(640), word(648), word(656)),
            (0x3e0_0000, 0x100_0850, 2, 0x11)
        );
        let half = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        assert_eq!(
            (half(768), half(788), half(792)),
            (u32::MAX, u32::MAX, 0x67)
        );
        assert_eq!((half(888), half(908), half(912)), (0xC9B, 0xC93, 0x8B));
        for flat in [segment::FS, segment::GS] {
            assert_eq!((cpu.limit[flat], cpu.arbytes[flat]), (u32::MAX, 0xC93));
        }
    }

    #[test]
    fn records_are_found_and_truncated_ones_are_not() {
        let mut records = Vec::new();
        push(&mut records, (1, 0), b"head");
        push(&mut records, (14, 0), b"types");
        assert_eq!(record(&records, 14), Some(&b"types"[..]));
        assert_eq!(record(&records[..records.len() - 1], 14), None);
        assert_eq!(record(&records, 2), None);
    }
}
