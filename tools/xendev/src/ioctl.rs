//! One ioctl with a struct for its argument, whose result may be a number.
//!
//! UNSAFETY: an ioctl's number decides what the kernel does with the argument; here only numbers of the /dev/xen
//! devices are used, and the structs they take hold addresses of memory that this crate owns.
#![expect(unsafe_code, reason = "the kernel is told addresses")]

use std::ffi::c_void;
use std::os::fd::AsFd;

use rustix::io::{Errno, Result};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

/// Number of an ioctl without a direction, as the Xen devices number theirs (`_IOC(_IOC_NONE, group, number, size)`).
pub(crate) const fn number(group: u8, number: u8, size: usize) -> Opcode {
    assert!(size < 1 << 14, "the size field has 14 bits");
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    let size = size as u32;
    size << 16 | (group as u32) << 8 | number as u32
}

struct Request<'a, T> {
    opcode: Opcode,
    argument: &'a mut T,
}

// SAFETY: the opcode is one whose argument is a pointer to a `T` (promised to `request` below), which lives as long as
// the request and may be written.
unsafe impl<T> Ioctl for Request<'_, T> {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.argument).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<i32> {
        Ok(out)
    }
}

/// Issues one request; returns the number that the kernel returns.
///
/// # Safety
/// `opcode` is a number whose argument is a pointer to a `T`, and whose addresses inside are those of memory that may
/// be read or written as far as the request does.
pub(crate) unsafe fn request<T>(fd: impl AsFd, opcode: Opcode, argument: &mut T) -> Result<i32> {
    loop {
        let request = Request {
            opcode,
            argument: &mut *argument,
        };
        // SAFETY: as promised by the caller.
        match unsafe { ioctl(fd.as_fd(), request) } {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Issues a request whose argument holds no addresses.
pub(crate) fn plain<T: Plain>(fd: impl AsFd, opcode: Opcode, argument: &mut T) -> Result<i32> {
    // SAFETY: the argument is plain numbers of the size that is part of the opcode.
    unsafe { request(fd, opcode, argument) }
}

/// Marks structs without addresses in them.
pub(crate) trait Plain {}
impl<const N: usize> Plain for [u32; N] {}
