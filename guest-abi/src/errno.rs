//! public/errno.h: what a hypercall says when it refuses.
//!
//! The numbers are Xen's own (they equal Linux's on x86). `ERESTART` is left out on purpose: inside Xen it asks for the
//! hypercall to be run again, and a guest must never see it.

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// A refusal, as Xen numbers it; [`Errno::to_rax`] is what the guest gets.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum Errno {
            $($(#[$doc])* $name = $value,)*
        }

        impl Errno {
            /// Reads a number back, `None` where it is not one of ours.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Names it, as in the header.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

errnos! {
    /// Operation not permitted.
    EPERM = 1,
    /// No such entry.
    ENOENT = 2,
    /// No such domain.
    ESRCH = 3,
    /// Interrupted call.
    EINTR = 4,
    /// Input or output failed.
    EIO = 5,
    /// No such device or address.
    ENXIO = 6,
    /// Argument list too long.
    E2BIG = 7,
    /// Not an executable format we know.
    ENOEXEC = 8,
    /// Bad file number.
    EBADF = 9,
    /// No child processes.
    ECHILD = 10,
    /// Try again.
    EAGAIN = 11,
    /// Out of memory.
    ENOMEM = 12,
    /// Access denied; for domctl, sysctl and platform_op: wrong interface version.
    EACCES = 13,
    /// A pointer of the guest's leads nowhere.
    EFAULT = 14,
    /// Busy.
    EBUSY = 16,
    /// Exists already.
    EEXIST = 17,
    /// Crosses from one device to another.
    EXDEV = 18,
    /// No such device.
    ENODEV = 19,
    /// Not a directory.
    ENOTDIR = 20,
    /// Is a directory.
    EISDIR = 21,
    /// An argument makes no sense.
    EINVAL = 22,
    /// A table of the whole host is full.
    ENFILE = 23,
    /// A table of the caller's is full.
    EMFILE = 24,
    /// No space left.
    ENOSPC = 28,
    /// Read only.
    EROFS = 30,
    /// Too many links.
    EMLINK = 31,
    /// Argument out of the function's domain.
    EDOM = 33,
    /// Result not representable.
    ERANGE = 34,
    /// Would deadlock.
    EDEADLK = 35,
    /// Name too long.
    ENAMETOOLONG = 36,
    /// No record locks.
    ENOLCK = 37,
    /// No such hypercall or sub-operation.
    ENOSYS = 38,
    /// Not empty.
    ENOTEMPTY = 39,
    /// No data.
    ENODATA = 61,
    /// Timer expired.
    ETIME = 62,
    /// Not a data message.
    EBADMSG = 74,
    /// Too large for its type.
    EOVERFLOW = 75,
    /// Illegal byte sequence.
    EILSEQ = 84,
    /// Not a socket.
    ENOTSOCK = 88,
    /// Message too large.
    EMSGSIZE = 90,
    /// Known, but not supported here.
    EOPNOTSUPP = 95,
    /// Address in use.
    EADDRINUSE = 98,
    /// Address not available.
    EADDRNOTAVAIL = 99,
    /// No buffer space.
    ENOBUFS = 105,
    /// Connected already.
    EISCONN = 106,
    /// Not connected.
    ENOTCONN = 107,
    /// Timed out.
    ETIMEDOUT = 110,
    /// Connection refused.
    ECONNREFUSED = 111,
}

impl Errno {
    /// The positive number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The negative number, as 32-bit fields of structs carry it (`errs[]` of add_to_physmap_batch).
    #[must_use]
    pub const fn to_i32(self) -> i32 {
        -(self as i32)
    }

    /// The 64-bit result register of a hypercall that fails so: `-errno`.
    #[must_use]
    pub const fn to_rax(self) -> u64 {
        (self as u64).wrapping_neg()
    }

    /// Reads a result register: `None` where the call succeeded, or failed with a number that is not ours.
    #[must_use]
    pub const fn from_rax(rax: u64) -> Option<Self> {
        let code = rax.wrapping_neg().to_le_bytes();
        match code {
            [code, 0, 0, 0, 0, 0, 0, 0] => Self::from_code(code),
            _ => None,
        }
    }
}

impl core::error::Error for Errno {}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "-{}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enosys_is_minus_38_in_rax() {
        assert_eq!(Errno::ENOSYS.to_rax(), 0xFFFF_FFFF_FFFF_FFDA);
        assert_eq!(Errno::ENOSYS.to_i32(), -38);
    }

    #[test]
    fn every_code_reads_back_and_success_is_no_error() {
        for code in 0..=u8::MAX {
            if let Some(errno) = Errno::from_code(code) {
                assert_eq!(Errno::from_rax(errno.to_rax()), Some(errno));
            }
        }
        for rax in [0, 1, 38, 1 << 40, u64::MAX - 255] {
            assert_eq!(Errno::from_rax(rax), None);
        }
    }

    #[test]
    fn restart_is_not_a_guest_visible_error() {
        assert_eq!(Errno::from_code(85), None);
    }
}
