//! The first vCPU's registers at a PVH entry, and what all vCPUs' memory types start from.
//!
//! Written as the records of an HVM context; the header comes from the hypervisor, as it must fit its own.
//!
//! Source: "x86/HVM direct boot ABI"; `public/arch-x86/hvm/save.h`.

use guest_abi::Errno;

use crate::config::DomainConfig;
use crate::hypercall::HypercallError;
use crate::image::Image;
use crate::{Hyper, Result};

/// Record types.
const HEADER: u16 = 1;
const CPU: u16 = 2;
const MTRR: u16 = 14;
const END: u16 = 0;

/// Bytes of a CPU record.
const CPU_SIZE: usize = 1032;
/// Offsets in it.
const RBX: usize = 512 + 8;
const RIP: usize = 512 + 16 * 8;
const RFLAGS: usize = RIP + 8;
const CR0: usize = RFLAGS + 8;
const DR6: usize = 720;
const DR7: usize = 728;
const LIMITS: usize = 768;
const ATTRIBUTES: usize = 888;

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

/// Bytes of a record of memory types, and where in it their default lies.
const MTRR_SIZE: usize = 240;
const MTRR_DEFAULT: usize = 232;
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
    let header = record(&present, HEADER).ok_or_else(|| missing("header"))?;
    let types = record(&present, MTRR)
        .filter(|types| types.len() == MTRR_SIZE)
        .ok_or_else(|| missing("MTRR"))?;
    let mut types = types.to_vec();
    put(&mut types, MTRR_DEFAULT, MTRR_WRITE_BACK);
    let mut records = Vec::new();
    push(&mut records, HEADER, 0, header);
    push(&mut records, CPU, 0, &cpu(image.entry, image.start_info));
    for vcpu in 0..u16::try_from(config.max_vcpus).unwrap_or(u16::MAX) {
        push(&mut records, MTRR, vcpu, &types);
    }
    push(&mut records, END, 0, &[]);
    Ok(hyper.set_hvm_context(domid, &records)?)
}

/// A CPU record at a PVH entry.
fn cpu(entry: u64, start_info: u64) -> Vec<u8> {
    let mut cpu = vec![0; CPU_SIZE];
    put(&mut cpu, RBX, start_info);
    put(&mut cpu, RIP, entry);
    put(&mut cpu, RFLAGS, RFLAGS_RESET);
    put(&mut cpu, CR0, CR0_PE_ET);
    put(&mut cpu, DR6, DR6_RESET);
    put(&mut cpu, DR7, DR7_RESET);
    // in the order CS, DS, ES, FS, GS, SS, TR
    let segments = [CODE, DATA, DATA, 0, 0, DATA, TSS];
    for (nth, attributes) in segments.into_iter().enumerate() {
        let limit = match attributes {
            TSS => 0x67,
            0 => 0,
            _ => u32::MAX,
        };
        put(&mut cpu, LIMITS + nth * 4, limit);
        put(&mut cpu, ATTRIBUTES + nth * 4, attributes);
    }
    cpu
}

/// A number as its bytes.
trait Bytes {
    fn bytes(&self) -> impl AsRef<[u8]>;
}

impl Bytes for u64 {
    fn bytes(&self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
}

impl Bytes for u32 {
    fn bytes(&self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
}

fn put(record: &mut [u8], at: usize, value: impl Bytes) {
    let value = value.bytes();
    let place = record
        .get_mut(at..at + value.as_ref().len())
        .expect("offsets lie in the record");
    place.copy_from_slice(value.as_ref());
}

fn push(records: &mut Vec<u8>, kind: u16, instance: u16, data: &[u8]) {
    records.extend(kind.to_le_bytes());
    records.extend(instance.to_le_bytes());
    records.extend(
        u32::try_from(data.len())
            .expect("records are small")
            .to_le_bytes(),
    );
    records.extend(data);
}

/// The first record of a type.
fn record(mut records: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some((head, rest)) = records.split_first_chunk::<8>() {
        let [k0, k1, _, _, s0, s1, s2, s3] = *head;
        let size = usize::try_from(u32::from_le_bytes([s0, s1, s2, s3])).ok()?;
        let (data, next) = rest.split_at_checked(size)?;
        if u16::from_le_bytes([k0, k1]) == kind {
            return Some(data);
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
        let word = |at: usize| u64::from_le_bytes(*cpu[at..].first_chunk().unwrap());
        assert_eq!(
            (word(520), word(640), word(648), word(656)),
            (0x3e0_0000, 0x100_0850, 2, 0x11)
        );
        let half = |at: usize| u32::from_le_bytes(*cpu[at..].first_chunk().unwrap());
        assert_eq!(
            (half(768), half(788), half(792)),
            (u32::MAX, u32::MAX, 0x67)
        );
        assert_eq!((half(888), half(908), half(912)), (0xC9B, 0xC93, 0x8B));
    }

    #[test]
    fn records_are_found_and_truncated_ones_are_not() {
        let mut records = Vec::new();
        push(&mut records, 1, 0, b"head");
        push(&mut records, 14, 0, b"types");
        assert_eq!(record(&records, 14), Some(&b"types"[..]));
        assert_eq!(record(&records[..records.len() - 1], 14), None);
        assert_eq!(record(&records, 2), None);
    }
}
