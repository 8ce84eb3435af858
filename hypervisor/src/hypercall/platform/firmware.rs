//! What dom0 may know of the firmware, and its runtime services. Source: `public/platform.h, XENPF_firmware_info`,
//! `XENPF_efi_runtime_call`.
//!
//! The services are the firmware's and trusted, what dom0 passes is not: names are copied in up to their end, data up
//! to a limit, and what comes back is never more than dom0 has room for. A service takes as long as it takes, with
//! interrupts off: writing a variable to flash may be milliseconds.

use alloc::vec;
use alloc::vec::Vec;

use guest_abi::compat::Width;
use guest_abi::errno::Errno;
use guest_abi::platform::{
    XEN_EFI_GET_TIME_SET_CLEARS_NS, XEN_EFI_GET_WAKEUP_TIME_ENABLED,
    XEN_EFI_GET_WAKEUP_TIME_PENDING, XEN_EFI_SET_WAKEUP_TIME_ENABLE,
    XEN_EFI_SET_WAKEUP_TIME_ENABLE_ONLY, XEN_EFI_get_next_high_monotonic_count,
    XEN_EFI_get_next_variable_name, XEN_EFI_get_time, XEN_EFI_get_variable,
    XEN_EFI_get_wakeup_time, XEN_EFI_query_variable_info, XEN_EFI_set_time, XEN_EFI_set_variable,
    XEN_EFI_set_wakeup_time, XEN_FW_EFI_CONFIG_TABLE, XEN_FW_EFI_INFO, XEN_FW_EFI_MEM_INFO,
    XEN_FW_EFI_RT_VERSION, XEN_FW_EFI_VENDOR, XEN_FW_EFI_VERSION, XenPlatformOp,
    XenpfEfiConfigTable, XenpfEfiMemInfo, XenpfEfiNextName, XenpfEfiRuntimeCall, XenpfEfiTime,
    XenpfEfiVariable, XenpfEfiVariableInfo, XenpfEfiVendor, XenpfFirmwareInfo,
};
use hv_core::addr::Gva;
use hv_hw::efi::{self, Status, TimeCapabilities, VariableInfo};
use hv_hw::virt::VcpuHw;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::argument;
use crate::hypercall::{Answer, Call};
use crate::machine::host::{Firmware, host};
use crate::machine::memory;
use crate::runner::Runner;

/// Letters of a variable's name, its end among them: twice what Linux knows.
const MOST_LETTERS: usize = 1024;
/// Bytes of a variable: more than the lists of keys that are the largest there are.
const MOST_BYTES: u64 = 256 << 10;

/// An error of the firmware's, with the highest bit set.
const fn is_error(status: Status) -> bool {
    status >> 63 != 0
}

pub(super) fn info<H: VcpuHw>(call: &mut Call<'_, H>, op: &mut XenPlatformOp) -> Answer {
    let asked: XenpfFirmwareInfo = argument(op)?;
    let firmware = host().firmware.as_ref().ok_or(Errno::ENOSYS)?;
    if asked.type_ != XEN_FW_EFI_INFO || call.runner.width != Width::Bits64 {
        return Err(Errno::ENOSYS.into());
    }
    let body =
        op.u.get_mut(size_of::<XenpfFirmwareInfo>()..)
            .ok_or(Errno::EINVAL)?;
    match asked.index {
        XEN_FW_EFI_VERSION => put(body, &firmware.system.revision)?,
        XEN_FW_EFI_RT_VERSION => {
            put(body, &firmware.runtime_revision.ok_or(Errno::EOPNOTSUPP)?)?;
        }
        XEN_FW_EFI_CONFIG_TABLE => {
            let tables = XenpfEfiConfigTable {
                addr: firmware.system.tables.as_u64(),
                nent: firmware.system.table_count,
                ..XenpfEfiConfigTable::default()
            };
            put(body, &tables)?;
        }
        XEN_FW_EFI_VENDOR => vendor(call.runner, firmware, body)?,
        XEN_FW_EFI_MEM_INFO => memory_info(firmware, body)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    call.runner.copy_out(call.pointer(0), op)?;
    Ok(0)
}

fn vendor<H: VcpuHw>(
    runner: &Runner<H>,
    firmware: &Firmware,
    body: &mut [u8],
) -> Result<(), Errno> {
    let mut asked: XenpfEfiVendor = take(body)?;
    let room = usize::try_from(asked.bufsz / 2).unwrap_or(usize::MAX);
    let name = firmware.vendor.get(..room).unwrap_or(&firmware.vendor);
    runner.copy_bytes_out(Gva::new(asked.name), name.as_bytes())?;
    asked.revision = firmware.system.firmware_revision;
    put(body, &asked)
}

fn memory_info(firmware: &Firmware, body: &mut [u8]) -> Result<(), Errno> {
    let mut asked: XenpfEfiMemInfo = take(body)?;
    let mut map = firmware.memory.iter();
    let found = map.find(|range| range.contains(asked.addr));
    let range = found.ok_or(Errno::ESRCH)?;
    asked.type_ = range.kind;
    asked.attr = range.attributes;
    asked.size = asked.size.min(range.end() - asked.addr);
    put(body, &asked)
}

/// Calls a service and copies out what it says. The hypercall fails only where it could not be called.
pub(super) fn runtime_call<H: VcpuHw>(call: &mut Call<'_, H>, op: &mut XenPlatformOp) -> Answer {
    let firmware = host().firmware.as_ref().ok_or(Errno::ENOSYS)?;
    if firmware.runtime_revision.is_none() || call.runner.width != Width::Bits64 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let mut asked: XenpfEfiRuntimeCall = argument(op)?;
    let (head, body) = op.u.split_at_mut(size_of::<XenpfEfiRuntimeCall>());
    let misc = &mut asked.misc;
    let status = match asked.function {
        XEN_EFI_get_time => get_time(misc, body),
        XEN_EFI_set_time => set_time(*misc, body),
        XEN_EFI_get_wakeup_time => get_wakeup_time(misc, body),
        XEN_EFI_set_wakeup_time => set_wakeup_time(misc, body),
        XEN_EFI_get_next_high_monotonic_count => next_count(misc),
        XEN_EFI_get_variable => get_variable(call.runner, misc, body),
        XEN_EFI_set_variable => set_variable(call.runner, *misc, body),
        XEN_EFI_get_next_variable_name => next_variable_name(call.runner, *misc, body),
        XEN_EFI_query_variable_info => query_variable_info(*misc, body),
        _ => Err(Errno::ENOSYS),
    };
    asked.status = status?;
    put(head, &asked)?;
    call.runner.copy_out(call.pointer(0), op)?;
    Ok(0)
}

/// What a service returned: without one, the firmware has none.
fn called(status: Option<Status>) -> Result<Status, Errno> {
    status.ok_or(Errno::EOPNOTSUPP)
}

/// Refuses flags where there are none.
fn no_flags(misc: u32) -> Result<(), Errno> {
    if misc == 0 {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

fn get_time(misc: &mut u32, body: &mut [u8]) -> Result<Status, Errno> {
    no_flags(*misc)?;
    let mut answer: XenpfEfiTime = take(body)?;
    let mut capabilities = TimeCapabilities::default();
    let status = called(efi::get_time(&mut answer.time, &mut capabilities))?;
    if !is_error(status) {
        answer.resolution = capabilities.resolution;
        answer.accuracy = capabilities.accuracy;
        if capabilities.sets_to_zero != 0 {
            *misc = XEN_EFI_GET_TIME_SET_CLEARS_NS;
        }
        put(body, &answer)?;
    }
    Ok(status)
}

fn set_time(misc: u32, body: &[u8]) -> Result<Status, Errno> {
    no_flags(misc)?;
    called(efi::set_time(&take(body)?))
}

fn get_wakeup_time(misc: &mut u32, body: &mut [u8]) -> Result<Status, Errno> {
    no_flags(*misc)?;
    let mut time: efi::Time = take(body)?;
    let (mut enabled, mut pending) = (0, 0);
    let status = called(efi::get_wakeup_time(&mut enabled, &mut pending, &mut time))?;
    if !is_error(status) {
        for (is_set, flag) in [
            (enabled, XEN_EFI_GET_WAKEUP_TIME_ENABLED),
            (pending, XEN_EFI_GET_WAKEUP_TIME_PENDING),
        ] {
            if is_set != 0 {
                *misc |= flag;
            }
        }
        put(body, &time)?;
    }
    Ok(status)
}

fn set_wakeup_time(misc: &mut u32, body: &[u8]) -> Result<Status, Errno> {
    const KNOWN: u32 = XEN_EFI_SET_WAKEUP_TIME_ENABLE | XEN_EFI_SET_WAKEUP_TIME_ENABLE_ONLY;
    no_flags(*misc & !KNOWN)?;
    let is_enabled = *misc & XEN_EFI_SET_WAKEUP_TIME_ENABLE != 0;
    let is_time_kept = *misc & XEN_EFI_SET_WAKEUP_TIME_ENABLE_ONLY != 0;
    let time: efi::Time = take(body)?;
    *misc = 0;
    called(efi::set_wakeup_time(
        is_enabled,
        (!is_time_kept).then_some(&time),
    ))
}

fn next_count(misc: &mut u32) -> Result<Status, Errno> {
    no_flags(*misc)?;
    called(efi::next_high_monotonic_count(misc))
}

fn get_variable<H: VcpuHw>(
    runner: &Runner<H>,
    misc: &mut u32,
    body: &mut [u8],
) -> Result<Status, Errno> {
    no_flags(*misc)?;
    let mut asked: XenpfEfiVariable = take(body)?;
    let name = name(runner, Gva::new(asked.name))?;
    let mut data = room(asked.size)?;
    let answer = efi::get_variable((&name, &asked.vendor_guid), misc, &mut data);
    let (status, size) = answer.ok_or(Errno::EOPNOTSUPP)?;
    if !is_error(status) {
        let length = usize::try_from(size).unwrap_or(usize::MAX).min(data.len());
        runner.copy_bytes_out(Gva::new(asked.data), &data[..length])?;
    }
    asked.size = size;
    put(body, &asked)?;
    Ok(status)
}

fn set_variable<H: VcpuHw>(runner: &Runner<H>, misc: u32, body: &[u8]) -> Result<Status, Errno> {
    let asked: XenpfEfiVariable = take(body)?;
    let name = name(runner, Gva::new(asked.name))?;
    let mut data = room(asked.size)?;
    runner.copy_bytes_in(Gva::new(asked.data), &mut data)?;
    called(efi::set_variable((&name, &asked.vendor_guid), misc, &data))
}

/// The buffer holds the name before, whose end must be inside.
fn next_variable_name<H: VcpuHw>(
    runner: &Runner<H>,
    misc: u32,
    body: &mut [u8],
) -> Result<Status, Errno> {
    no_flags(misc)?;
    let mut asked: XenpfEfiNextName = take(body)?;
    let letters = usize::try_from(asked.size / 2).unwrap_or(usize::MAX);
    if letters > MOST_LETTERS {
        return Err(Errno::ENOMEM);
    }
    let mut name = vec![0; letters];
    runner.copy_bytes_in(Gva::new(asked.name), name.as_mut_bytes())?;
    if !name.contains(&0) {
        return Err(Errno::EINVAL);
    }
    let answer = efi::next_variable_name(&mut name, &mut asked.vendor_guid);
    let (status, size) = answer.ok_or(Errno::EOPNOTSUPP)?;
    if !is_error(status) {
        // all of it, since some firmware counts wrongly
        runner.copy_bytes_out(Gva::new(asked.name), name.as_bytes())?;
    }
    asked.size = size;
    put(body, &asked)?;
    Ok(status)
}

/// What the store was at boot (the one flag that there is) nobody has noted.
fn query_variable_info(misc: u32, body: &mut [u8]) -> Result<Status, Errno> {
    no_flags(misc)?;
    let mut asked: XenpfEfiVariableInfo = take(body)?;
    let mut info = VariableInfo::default();
    let status = called(efi::query_variable_info(asked.attr, &mut info))?;
    asked.max_store_size = info.max_store;
    asked.remain_store_size = info.remaining;
    asked.max_size = info.max_size;
    put(body, &asked)?;
    Ok(status)
}

/// A variable's name, its end included.
fn name<H: VcpuHw>(runner: &Runner<H>, from: Gva) -> Result<Vec<u16>, Errno> {
    let mut name = Vec::new();
    for index in 0..MOST_LETTERS as u64 {
        let mut letter = [0; 2];
        let at = from.as_u64().checked_add(index * 2).ok_or(Errno::EFAULT)?;
        runner.copy_bytes_in(Gva::new(at), &mut letter)?;
        name.push(u16::from_le_bytes(letter));
        if letter == [0; 2] {
            return Ok(name);
        }
    }
    Err(Errno::EINVAL)
}

/// Room for a variable.
fn room(bytes: u64) -> Result<Vec<u8>, Errno> {
    let length = usize::try_from(bytes.min(MOST_BYTES + 1)).map_err(|_| Errno::ENOMEM)?;
    let mut room = Vec::new();
    if bytes > MOST_BYTES || !memory::heap_has_room() || room.try_reserve_exact(length).is_err() {
        return Err(Errno::ENOMEM);
    }
    room.resize(length, 0);
    Ok(room)
}

fn take<T: FromBytes>(body: &[u8]) -> Result<T, Errno> {
    let (value, _) = T::read_from_prefix(body).map_err(|_| Errno::EINVAL)?;
    Ok(value)
}

fn put<T: IntoBytes + Immutable>(body: &mut [u8], value: &T) -> Result<(), Errno> {
    value.write_to_prefix(body).map_err(|_| Errno::EINVAL)
}
