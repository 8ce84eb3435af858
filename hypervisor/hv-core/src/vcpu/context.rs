//! The records in which toolstacks keep a domain's vCPUs: a stream's form, and what a record must be to be loaded.
//!
//! Nothing here changes a vCPU: [`Records`] takes a stream apart, [`Stream`] puts one together, and the checks say
//! whether values could be a vCPU's. Registers that entered unchecked would only kill the domain that gets them; the
//! checks tell the toolstack before.
//!
//! Source: `public/hvm/save.h`, `public/arch-x86/hvm/save.h`.

use alloc::vec::Vec;

use guest_abi::hvm::save::{
    HVM_FILE_MAGIC, HVM_FILE_VERSION, HVM_SAVE_CODE_END, HVM_SAVE_CODE_HEADER, HvmHwCpu,
    HvmSaveDescriptor, HvmSaveHeader, XEN_X86_FPU_INITIALISED, segment,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::cpuid::CpuidPolicy;
use crate::x86::{
    CR0_CD, CR0_ET, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME, RFLAGS_FIXED,
};

/// A record as it lies in a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    pub typecode: u16,
    /// Which of the type: a vCPU's number.
    pub instance: u16,
    pub body: &'a [u8],
}

/// Why a stream or a record is not loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRecord {
    /// The stream ends before its end record, or within one.
    CutShort,
    /// It does not begin with a header that we know.
    Header,
    /// A record is longer than its type is.
    TooLong,
    /// Values that no vCPU of this domain can have.
    Values,
}

impl Record<'_> {
    /// The body as `T`, filled up with zeroes where it is shorter.
    ///
    /// # Errors
    /// [`BadRecord::TooLong`].
    pub fn read<T: FromBytes + IntoBytes>(&self) -> Result<T, BadRecord> {
        let mut value = T::new_zeroed();
        value
            .as_mut_bytes()
            .get_mut(..self.body.len())
            .ok_or(BadRecord::TooLong)?
            .copy_from_slice(self.body);
        Ok(value)
    }
}

/// The records of a stream, without header and end.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    is_over: bool,
}

impl<'a> Records<'a> {
    /// Begins to read a stream; returns its header too.
    ///
    /// # Errors
    /// [`BadRecord::CutShort`], [`BadRecord::Header`].
    pub fn begin(stream: &'a [u8]) -> Result<(HvmSaveHeader, Self), BadRecord> {
        let mut rest = stream;
        let first = take(&mut rest)?;
        let header: HvmSaveHeader = first.read()?;
        let is_known = first.typecode == HVM_SAVE_CODE_HEADER
            && header.magic == HVM_FILE_MAGIC
            && header.version == HVM_FILE_VERSION;
        if !is_known {
            return Err(BadRecord::Header);
        }
        let records = Self {
            rest,
            is_over: false,
        };
        Ok((header, records))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let record = take(&mut self.rest);
        self.is_over = match &record {
            Ok(record) => record.typecode == HVM_SAVE_CODE_END,
            Err(_) => true,
        };
        match record {
            Ok(_) if self.is_over => None,
            other => Some(other),
        }
    }
}

/// Takes the first record off `rest`.
fn take<'a>(rest: &mut &'a [u8]) -> Result<Record<'a>, BadRecord> {
    let (head, tail) =
        HvmSaveDescriptor::read_from_prefix(rest).map_err(|_| BadRecord::CutShort)?;
    let length = usize::try_from(head.length).map_err(|_| BadRecord::CutShort)?;
    let (body, tail) = tail.split_at_checked(length).ok_or(BadRecord::CutShort)?;
    *rest = tail;
    Ok(Record {
        typecode: head.typecode,
        instance: head.instance,
        body,
    })
}

/// A stream in the making, in memory that was asked for before.
#[derive(Debug)]
pub struct Stream {
    bytes: Vec<u8>,
    room: usize,
}

/// The stream has no room for a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

impl Stream {
    /// A stream of at most `room` bytes, with its header.
    ///
    /// # Errors
    /// [`NoRoom`] where there is no memory for them.
    pub fn begin(room: usize, header: &HvmSaveHeader) -> Result<Self, NoRoom> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(room).map_err(|_| NoRoom)?;
        let mut stream = Self { bytes, room };
        stream.put(HVM_SAVE_CODE_HEADER, 0, header.as_bytes())?;
        Ok(stream)
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn put(&mut self, typecode: u16, instance: u16, body: &[u8]) -> Result<(), NoRoom> {
        let length = u32::try_from(body.len()).map_err(|_| NoRoom)?;
        let head = HvmSaveDescriptor {
            typecode,
            instance,
            length,
        };
        let free = self.room.saturating_sub(self.bytes.len());
        if body.len().saturating_add(size_of_val(&head)) > free {
            return Err(NoRoom);
        }
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(body);
        Ok(())
    }

    /// Ends it; returns its bytes.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn end(mut self) -> Result<Vec<u8>, NoRoom> {
        self.put(HVM_SAVE_CODE_END, 0, &[])?;
        Ok(self.bytes)
    }
}

/// Bytes that a record with a body of `body` bytes takes.
#[must_use]
pub const fn record_bytes(body: usize) -> usize {
    size_of::<HvmSaveDescriptor>() + body
}

/// PE MP EM TS ET NE WP AM NW CD PG.
const CR0_KNOWN: u64 = 0x3F | 1 << 16 | 1 << 18 | CR0_NW | CR0_CD | CR0_PG;
/// L and D of a code segment's access rights.
const CS_L_AND_D: u32 = 1 << 13 | 1 << 14;
/// The bits of RFLAGS that are not reserved.
const RFLAGS_KNOWN: u64 = 0x3F_7FD7;

/// Checks that a vCPU of a domain with this CPUID can have these registers, and puts those right that toolstacks leave
/// open: RFLAGS's fixed bit, EFER.LMA.
///
/// # Errors
/// [`BadRecord::Values`].
pub fn check_cpu(cpu: &mut HvmHwCpu, cpuid: &CpuidPolicy) -> Result<(), BadRecord> {
    let is_paging = cpu.cr0 & CR0_PG != 0;
    let is_protected = cpu.cr0 & CR0_PE != 0;
    let cr0_is_valid = cpu.cr0 & !CR0_KNOWN == 0
        && cpu.cr0 & CR0_ET != 0
        && (is_protected || !is_paging)
        && (cpu.cr0 & CR0_CD != 0 || cpu.cr0 & CR0_NW == 0);
    let is_long = is_paging && cpu.msr_efer & EFER_LME != 0;
    let efer_is_valid = cpu.msr_efer & !(cpuid.efer_allowed() | EFER_LMA) == 0
        && (!is_long || cpu.cr4 & CR4_PAE != 0);
    // in 64-bit mode there is no other default operand size
    let cs_is_valid = !is_long || from_arbytes(cpu.arbytes[segment::CS]) & CS_L_AND_D != CS_L_AND_D;
    let pcids_are_valid = is_long || cpu.cr4 & CR4_PCIDE == 0;
    let cr3_is_valid = cpu.cr3.checked_shr(u32::from(cpuid.physical_bits())) == Some(0);
    let others_are_valid = cpu.cr4 & !cpuid.cr4_allowed() == 0
        && cpu.rflags & !RFLAGS_KNOWN == 0
        && cpu.dr6 >> 32 == 0
        && cpu.dr7 >> 32 == 0
        && cpu.msr_tsc_aux >> 32 == 0
        && cpu.flags & !XEN_X86_FPU_INITIALISED == 0
        && cpu.pad0 == 0;
    let mut addresses = cpu.base.iter().chain([
        &cpu.sysenter_esp,
        &cpu.sysenter_eip,
        &cpu.shadow_gs,
        &cpu.msr_lstar,
        &cpu.msr_cstar,
    ]);
    let addresses_are_valid = addresses.all(|address| is_canonical(*address));
    let modes_are_valid = cr0_is_valid && efer_is_valid && cs_is_valid && pcids_are_valid;
    if !modes_are_valid || !cr3_is_valid || !others_are_valid || !addresses_are_valid {
        return Err(BadRecord::Values);
    }
    cpu.rflags |= RFLAGS_FIXED;
    cpu.msr_efer = cpu.msr_efer & !EFER_LMA | if is_long { EFER_LMA } else { 0 };
    Ok(())
}

/// RFLAGS as a toolstack gives it, with the bit that is always set; `None` where reserved bits are.
#[must_use]
pub fn checked_rflags(rflags: u64) -> Option<u64> {
    (rflags & !RFLAGS_KNOWN == 0).then_some(rflags | RFLAGS_FIXED)
}

/// True for an address of 48 bits that is sign-extended: WRMSR would refuse others.
fn is_canonical(address: u64) -> bool {
    let upper = address >> 47;
    upper == 0 || upper == (1 << 17) - 1
}

/// Access rights as a vCPU has them (unusable in bit 16) → the 12 bits of a record, where not present means unusable.
#[must_use]
pub const fn to_arbytes(access: u32) -> u32 {
    let present = if access & UNUSABLE == 0 { PRESENT } else { 0 };
    present | access & 0x7F | access >> 4 & 0xF00
}

/// The other way. Records of old hypervisors have them as vCPUs have.
#[must_use]
pub const fn from_arbytes(arbytes: u32) -> u32 {
    let is_unfolded = arbytes & 0xF000 != 0 && arbytes & 0x0F00 == 0;
    let folded = if is_unfolded {
        arbytes & 0xFF | arbytes >> 4 & 0xF00
    } else {
        arbytes
    };
    let unusable = if folded & PRESENT == 0 { UNUSABLE } else { 0 };
    unusable | folded & 0xFF | (folded & 0xF00) << 4
}

const PRESENT: u32 = 1 << 7;
const UNUSABLE: u32 = 1 << 16;

/// A record of registers that are all zero but for what is always set.
#[must_use]
pub fn empty_cpu() -> HvmHwCpu {
    HvmHwCpu {
        rflags: RFLAGS_FIXED,
        cr0: CR0_ET,
        ..HvmHwCpu::new_zeroed()
    }
}

#[cfg(test)]
mod tests;
