//! Saving and loading what a domain's vCPUs hold, as a stream of records.
//!
//! Both work on a domain that stands still, and ask each vCPU's CPU for its state first: the hypercall is executed
//! again until all have answered. Loading checks every record before the first vCPU is changed.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use guest_abi::domctl::{XenDomctlHvmcontext, XenDomctlHvmcontextPartial};
use guest_abi::errno::Errno;
use guest_abi::hvm::save::{
    HVM_FILE_MAGIC, HVM_FILE_VERSION, HVM_SAVE_CODE_CPU, HVM_SAVE_CODE_CPU_MSR,
    HVM_SAVE_CODE_CPU_XSAVE, HVM_SAVE_CODE_HEADER, HVM_SAVE_CODE_LAPIC, HVM_SAVE_CODE_LAPIC_REGS,
    HVM_SAVE_CODE_MAX, HVM_SAVE_CODE_MTRR, HVM_SAVE_CODE_TSC_ADJUST, HVM_SAVE_CODE_VMCE_VCPU,
    HvmHwCpu, HvmHwCpuXsave, HvmHwLapic, HvmHwMtrr, HvmOneMsr, HvmSaveHeader,
};
use hv_core::addr::{Gva, PAGE_BYTES};
use hv_core::device::lapic::{LapicPage, check_saved};
use hv_core::vcpu::context::{BadRecord, NoRoom, Record, Records, Stream, record_bytes};
use hv_hw::virt::VcpuHw;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::domain::vcpu::Vcpu;
use crate::domain::vcpu_state::VcpuState;
use crate::domain::vcpu_state::records::MOST_MSRS;
use crate::domain::{Domain, Policies};
use crate::hypercall::domctl::{Answer, Call, Domctl, Stop, lifecycle};
use crate::machine::memory;

/// Bytes of a vCPU's records at most.
const VCPU_BYTES: usize = record_bytes(size_of::<HvmHwCpu>())
    + record_bytes(size_of::<HvmHwLapic>())
    + record_bytes(size_of::<LapicPage>())
    + record_bytes(size_of::<HvmHwMtrr>())
    + record_bytes(size_of::<HvmHwCpuXsave>() + PAGE_BYTES)
    + record_bytes(size_of::<MsrRecord>());
/// The most records of a vCPU in a stream that is loaded: twice what Xen's have. Without a bound, a stream could be all
/// empty records, each of which is work.
const MOST_RECORDS: usize = 16;
/// The types that a vCPU has, in the order of a stream.
const VCPU_RECORDS: [u16; 6] = [
    HVM_SAVE_CODE_CPU,
    HVM_SAVE_CODE_LAPIC,
    HVM_SAVE_CODE_LAPIC_REGS,
    HVM_SAVE_CODE_MTRR,
    HVM_SAVE_CODE_CPU_XSAVE,
    HVM_SAVE_CODE_CPU_MSR,
];

/// Body of the record of MSRs, with as many as there can be.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MsrRecord {
    count: u64,
    msrs: [HvmOneMsr; MOST_MSRS],
}

impl From<BadRecord> for Stop {
    fn from(bad: BadRecord) -> Self {
        Self::Refused(match bad {
            BadRecord::CutShort => Errno::ENODATA,
            BadRecord::Header | BadRecord::TooLong | BadRecord::Values => Errno::EINVAL,
        })
    }
}

impl From<NoRoom> for Stop {
    fn from(NoRoom: NoRoom) -> Self {
        Self::Refused(Errno::ENOMEM)
    }
}

/// A vCPU and its state, to be changed and given back.
struct Held<'a> {
    vcpu: &'a Vcpu,
    state: Box<VcpuState>,
    /// What a stream that is loaded has for it: how many records, and its local APIC.
    records: usize,
    lapic: NewLapic,
}

/// DOMCTL_gethvmcontext. Without a buffer it says how large one has to be.
///
/// # Errors
/// ENOSPC where the buffer is smaller, ENOMEM, EFAULT.
pub(super) fn get<H: VcpuHw>(call: &mut Call<'_, H>, op: &mut Domctl) -> Answer {
    let mut body: XenDomctlHvmcontext = op.body();
    let domain = alive(call, op)?;
    let made = domain.vcpus.iter().filter(|vcpu| vcpu.is_made()).count();
    let room = bytes_of(made);
    let room32 = u32::try_from(room).map_err(|_| Errno::ENOSPC)?;
    if body.buffer == 0 {
        body.size = room32;
        op.reply(&body);
        return Ok(0);
    }
    if body.size < room32 {
        return Err(Errno::ENOSPC.into());
    }
    let all = hold(call, &domain, |_| true)?;
    let mut stream = Stream::begin(room, &header(&domain))?;
    for typecode in VCPU_RECORDS {
        for held in &all {
            put(&mut stream, typecode, &domain, held)?;
        }
    }
    let bytes = stream.end()?;
    call.runner.copy_bytes_out(Gva::new(body.buffer), &bytes)?;
    body.size = u32::try_from(bytes.len()).map_err(|_| Errno::ENOSPC)?;
    op.reply(&body);
    Ok(0)
}

/// DOMCTL_gethvmcontext_partial: the body of one record. Without a buffer it says how large one has to be.
///
/// # Errors
/// EINVAL for a type that there is not, ENOENT for a vCPU that there is not, ENOBUFS, EFAULT.
pub(super) fn get_one<H: VcpuHw>(call: &mut Call<'_, H>, op: &mut Domctl) -> Answer {
    let mut body: XenDomctlHvmcontextPartial = op.body();
    let domain = alive(call, op)?;
    let typecode = u16::try_from(body.type_).map_err(|_| Errno::EINVAL)?;
    if !VCPU_RECORDS.contains(&typecode) {
        return Err(Errno::EINVAL.into());
    }
    let vcpu = domain.vcpu(body.instance).filter(|vcpu| vcpu.is_made());
    let wanted = vcpu.ok_or(Errno::ENOENT)?.id;
    let all = hold(call, &domain, |vcpu| vcpu.id == wanted)?;
    let held = all.first().ok_or(Errno::ENOENT)?;
    let mut stream = Stream::begin(bytes_of(1), &header(&domain))?;
    put(&mut stream, typecode, &domain, held)?;
    let bytes = stream.end()?;
    let (_, mut records) = Records::begin(&bytes)?;
    let record = records.next().ok_or(Errno::ENODATA)??;
    let length = record.body.len() as u64;
    if body.buffer != 0 {
        if body.bufsz < length {
            return Err(Errno::ENOBUFS.into());
        }
        call.runner
            .copy_bytes_out(Gva::new(body.buffer), record.body)?;
    }
    body.bufsz = length;
    op.reply(&body);
    Ok(0)
}

/// DOMCTL_sethvmcontext: takes all vCPUs down, and those up that come with registers.
///
/// # Errors
/// EBUSY unless the domain stands still, ENODATA for a stream that is cut short, EINVAL for records that are not known,
/// not possible, or too many; ENOMEM, EFAULT.
pub(super) fn set<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    let body: XenDomctlHvmcontext = op.body();
    let domain = alive(call, op)?;
    if !domain.is_stopped() {
        return Err(Errno::EBUSY.into());
    }
    let bytes = read(call, &domain, &body)?;
    let mut all = hold(call, &domain, |_| true)?;
    let (header, records) = Records::begin(&bytes)?;
    let policies = domain.policies();
    check_header(&header, policies.tsc.khz())?;
    for held in &mut all {
        held.state.is_up = false;
    }
    for record in records {
        let record = record?;
        let held = whose(&mut all, &record)?;
        take(&mut held.state, &mut held.lapic, &record, &policies)?;
    }
    for held in &mut all {
        held.state.lapic = mem::take(&mut held.lapic).settle()?;
    }
    // a stream that is refused at its end has changed nothing but our copies
    for held in all {
        held.vcpu.set_state(*held.state);
    }
    Ok(0)
}

/// The vCPU that a record is of, and that has one more now.
///
/// # Errors
/// EINVAL where there is none, or it has had [`MOST_RECORDS`].
fn whose<'a, 'b>(all: &'a mut [Held<'b>], record: &Record<'_>) -> Result<&'a mut Held<'b>, Errno> {
    // in the order of their numbers, as the domain has them
    let held = all
        .binary_search_by_key(&record.instance, |held| held.vcpu.id.index)
        .ok()
        .and_then(|place| all.get_mut(place))
        .ok_or(Errno::EINVAL)?;
    if held.records == MOST_RECORDS {
        return Err(Errno::EINVAL);
    }
    held.records += 1;
    Ok(held)
}

/// The domain that it is about: another than the caller's, and not dying.
fn alive<H: VcpuHw>(call: &Call<'_, H>, op: &Domctl) -> Result<Arc<Domain>, Stop> {
    let domain = lifecycle::another(call, op)?;
    if domain.is_dying() {
        return Err(Errno::EINVAL.into());
    }
    Ok(domain)
}

/// Bytes of a stream with the records of `vcpus` vCPUs.
fn bytes_of(vcpus: usize) -> usize {
    let frame = record_bytes(size_of::<HvmSaveHeader>()) + record_bytes(0);
    VCPU_BYTES.saturating_mul(vcpus).saturating_add(frame)
}

fn header(domain: &Domain) -> HvmSaveHeader {
    HvmSaveHeader {
        magic: HVM_FILE_MAGIC,
        version: HVM_FILE_VERSION,
        changeset: u64::MAX,
        cpuid: domain.policies().cpuid.signature(),
        gtsc_khz: domain.policies().tsc.khz(),
    }
}

/// The guest's TSC counts as it did, which XEN_DOMCTL_settscinfo has to see to before.
fn check_header(header: &HvmSaveHeader, khz: u32) -> Result<(), Stop> {
    if header.gtsc_khz != 0 && header.gtsc_khz != khz {
        return Err(Errno::EOPNOTSUPP.into());
    }
    Ok(())
}

/// The states of the vCPUs that `is_wanted` picks, from their CPUs.
///
/// # Errors
/// [`Stop::Continuation`] until all have answered; what is there stays in the vCPUs' mailboxes. ENOMEM.
fn hold<'a, H: VcpuHw>(
    call: &mut Call<'_, H>,
    domain: &'a Domain,
    is_wanted: impl Fn(&Vcpu) -> bool,
) -> Result<Vec<Held<'a>>, Stop> {
    // the CPUs that answer cannot refuse
    if !memory::heap_has_room() {
        return Err(Errno::ENOMEM.into());
    }
    let made = domain.vcpus.iter().filter(|vcpu| vcpu.is_made());
    let mut all = Vec::new();
    all.try_reserve_exact(domain.vcpus.len())
        .map_err(|_| Errno::ENOMEM)?;
    let mut is_complete = true;
    for vcpu in made.filter(|vcpu| is_wanted(vcpu)) {
        match vcpu.take_state() {
            Some(state) => all.push(Held {
                vcpu,
                state,
                records: 0,
                lapic: NewLapic::default(),
            }),
            None => is_complete = false,
        }
    }
    if is_complete {
        return Ok(all);
    }
    for held in all {
        held.vcpu.put_back(held.state);
    }
    Err(call.again_after_others())
}

/// Appends the vCPU's record of a type.
fn put(stream: &mut Stream, typecode: u16, domain: &Domain, held: &Held<'_>) -> Result<(), NoRoom> {
    let instance = held.vcpu.id.index;
    let state = &held.state;
    let policies = domain.policies();
    let mut put = |body: &[u8]| stream.put(typecode, instance, body);
    match (typecode, &state.lapic) {
        // one that is down has none: who loads it leaves it down
        (HVM_SAVE_CODE_CPU, _) if state.is_up => {
            let tsc = domain.tsc_at(hv_hw::time::now());
            put(state.cpu_record(tsc).as_bytes())
        }
        (HVM_SAVE_CODE_LAPIC, Some((lapic, _))) => put(lapic.as_bytes()),
        (HVM_SAVE_CODE_LAPIC_REGS, Some((_, page))) => put(&page[..]),
        (HVM_SAVE_CODE_MTRR, _) => put(state.mtrr_record().as_bytes()),
        (HVM_SAVE_CODE_CPU_XSAVE, _) => match state.xsave_record(&policies.cpuid) {
            Some(body) => put(&body),
            None => Ok(()),
        },
        (HVM_SAVE_CODE_CPU_MSR, _) => {
            let set = state.msr_record(&policies.msrs);
            if set.is_empty() {
                return Ok(());
            }
            let mut record = MsrRecord::new_zeroed();
            record.count = set.len() as u64;
            record.msrs[..set.len()].copy_from_slice(&set);
            let bytes = size_of::<u64>() + size_of_val(set.as_slice());
            put(&record.as_bytes()[..bytes])
        }
        _ => Ok(()),
    }
}

/// Takes a record up.
fn take(
    state: &mut VcpuState,
    lapic: &mut NewLapic,
    record: &Record<'_>,
    policies: &Policies,
) -> Result<(), Stop> {
    let cpuid = &policies.cpuid;
    match record.typecode {
        HVM_SAVE_CODE_CPU => state.take_cpu(&record.read()?, cpuid)?,
        HVM_SAVE_CODE_LAPIC => lapic.state = Some(record.read()?),
        HVM_SAVE_CODE_LAPIC_REGS => lapic.page = Some(Box::new(record.read()?)),
        HVM_SAVE_CODE_MTRR => state.take_mtrrs(&record.read()?, cpuid)?,
        HVM_SAVE_CODE_CPU_XSAVE => state.take_xsave(record.body, cpuid)?,
        HVM_SAVE_CODE_CPU_MSR => take_msrs(state, record, policies)?,
        // IA32_TSC_ADJUST is not offered, and no machine-check bank is there
        HVM_SAVE_CODE_TSC_ADJUST | HVM_SAVE_CODE_VMCE_VCPU
            if record.body.iter().all(|byte| *byte == 0) => {}
        HVM_SAVE_CODE_HEADER..=HVM_SAVE_CODE_MAX => return Err(Errno::EOPNOTSUPP.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(())
}

/// The two records that a local APIC comes in.
#[derive(Default)]
struct NewLapic {
    state: Option<HvmHwLapic>,
    page: Option<Box<LapicPage>>,
}

impl NewLapic {
    /// The local APIC to load, `None` where it is to stay.
    ///
    /// # Errors
    /// EINVAL where one record came without the other, or for what no local APIC of ours can be in.
    fn settle(self) -> Result<Option<(HvmHwLapic, Box<LapicPage>)>, Errno> {
        match (self.state, self.page) {
            (None, None) => Ok(None),
            (Some(state), Some(page)) => {
                check_saved(&state, &page).map_err(|_| Errno::EINVAL)?;
                Ok(Some((state, page)))
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

fn take_msrs(
    state: &mut VcpuState,
    record: &Record<'_>,
    policies: &Policies,
) -> Result<(), BadRecord> {
    let (count, rest) = u64::read_from_prefix(record.body).map_err(|_| BadRecord::CutShort)?;
    let (msrs, tail) = rest.as_chunks::<{ size_of::<HvmOneMsr>() }>();
    if !tail.is_empty() || count & 0xFFFF_FFFF != msrs.len() as u64 {
        return Err(BadRecord::CutShort);
    }
    for msr in msrs {
        let msr = HvmOneMsr::read_from_bytes(msr).map_err(|_| BadRecord::CutShort)?;
        state.take_msr(&msr, &policies.msrs)?;
    }
    Ok(())
}

/// Copies the stream in.
fn read<H: VcpuHw>(
    call: &Call<'_, H>,
    domain: &Domain,
    body: &XenDomctlHvmcontext,
) -> Result<Vec<u8>, Errno> {
    /// Room for a vCPU's records, those of other hypervisors included.
    const MOST_BYTES_A_VCPU: usize = 16 << 10;
    let most = MOST_BYTES_A_VCPU.saturating_mul(domain.vcpus.len().saturating_add(1));
    let size = usize::try_from(body.size).map_err(|_| Errno::E2BIG)?;
    if size > most {
        return Err(Errno::E2BIG);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(size, 0);
    call.runner
        .copy_bytes_in(Gva::new(body.buffer), &mut bytes)?;
    Ok(bytes)
}
