//! Loop devices: a file as a block device.
//!
//! LOOP_CONFIGURE (Linux 5.8) sets one up in one call; another process may take the same free device at the same
//! moment, then the next one is tried. Clearing one that is still open makes the kernel clear it at its last close.
//!
//! Source: Linux, `include/uapi/linux/loop.h`.
//!
//! UNSAFETY: ioctls with structs and numbers of that header.
#![expect(unsafe_code, reason = "ioctls of the loop driver")]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, NoArg, Opcode, Setter, ioctl};

use crate::error::During;
use crate::{Error, Result};

const CONTROL: &str = "/dev/loop-control";
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CLR_FD: Opcode = 0x4C01;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// How often another process may be quicker.
const TRIES: usize = 64;
const NAME_SIZE: usize = 64;

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; NAME_SIZE],
    crypt_name: [u8; NAME_SIZE],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// A loop device that is given back when dropped, unless it is kept.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
    number: u64,
    file: Option<File>,
}

impl LoopDevice {
    /// The block device.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its device number.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Leaves it set up.
    pub(super) fn keep(mut self) {
        self.file = None;
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // nothing can be done where it fails
            let _ = clear(file);
        }
    }
}

/// Asks the driver for a free device.
struct GetFree;

// SAFETY: the request takes no argument, and returns a number.
unsafe impl Ioctl for GetFree {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// Sets up a loop device on `file`.
///
/// # Errors
/// Where the file cannot be opened, or the driver is not there.
pub(super) fn attach(file: &Path, read_only: bool, direct: bool) -> Result<LoopDevice> {
    let extra = if direct {
        OFlags::DIRECT
    } else {
        OFlags::empty()
    };
    let flags = i32::try_from(extra.bits()).unwrap_or(0);
    let backing = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(flags)
        .open(file)
        .map_err(|error| Error::file(file, error))?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open(CONTROL)
        .map_err(|error| Error::file(CONTROL, error))
        .during("loop device (load the module loop: modprobe loop)")?;
    for _ in 0..TRIES {
        // SAFETY: as `GetFree` promises.
        let number =
            unsafe { ioctl(&control, GetFree) }.map_err(|errno| Error::file(CONTROL, errno))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        match configure(&path, file, backing.as_raw_fd(), read_only, direct) {
            Ok(device) => return Ok(device),
            Err(Errno::BUSY) => {}
            Err(errno) => {
                return Err(
                    Error::file(path, errno).during(format!("loop device for {}", file.display()))
                );
            }
        }
    }
    Err(Error::file(CONTROL, Errno::BUSY).during("no loop device stays free"))
}

fn configure(
    path: &Path,
    file: &Path,
    fd: i32,
    read_only: bool,
    direct: bool,
) -> std::result::Result<LoopDevice, Errno> {
    let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(io)?;
    let mut flags = if read_only { LO_FLAGS_READ_ONLY } else { 0 };
    flags |= if direct { LO_FLAGS_DIRECT_IO } else { 0 };
    let mut name = [0; NAME_SIZE];
    // the last byte stays NUL
    let text = file.as_os_str().as_encoded_bytes();
    name.iter_mut()
        .zip(text)
        .take(NAME_SIZE - 1)
        .for_each(|(to, from)| *to = *from);
    let config = LoopConfig {
        fd: u32::try_from(fd).map_err(|_| Errno::BADF)?,
        block_size: 0,
        info: LoopInfo64 {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: name,
            crypt_name: [0; NAME_SIZE],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the request takes a pointer to this struct, and holds no addresses.
    let request = unsafe { Setter::<LOOP_CONFIGURE, LoopConfig>::new(config) };
    // SAFETY: as above.
    unsafe { ioctl(&device, request) }?;
    let number = device.metadata().map_err(io)?.rdev();
    Ok(LoopDevice {
        path: path.to_owned(),
        number,
        file: Some(device),
    })
}

/// Gives a loop device back; one that is no longer set up is none of our business.
///
/// # Errors
/// Where it cannot be opened.
pub(super) fn release(path: &Path) -> Result<()> {
    let device = File::open(path).map_err(|error| Error::file(path, error))?;
    match clear(&device) {
        Err(Errno::NXIO) | Ok(()) => Ok(()),
        Err(errno) => Err(Error::file(path, errno)),
    }
}

fn clear(device: &File) -> std::result::Result<(), Errno> {
    // SAFETY: the request takes no argument.
    let request = unsafe { NoArg::<LOOP_CLR_FD>::new() };
    // SAFETY: as above.
    unsafe { ioctl(device, request) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_have_linux_sizes() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = attach(Path::new("/no/such/image"), true, false).unwrap_err();
        assert!(
            error.chain().starts_with("/no/such/image: No such file"),
            "{}",
            error.chain()
        );
    }
}
