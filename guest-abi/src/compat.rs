//! What a 32-bit caller passes: the layouts of Xen's `include/xlat.lst`, and the way from one width to the other.
//!
//! On i386 a pointer, an `xen_ulong_t` and an `xen_pfn_t` have 4 bytes, and a `uint64_t` is aligned to 4. Most structs
//! are the same for all that, as their fields have fixed sizes and fall into place; those that are not have a row
//! below. [`Compat`] knows of every struct which it is: who copies one in or out cannot forget the other width.
//!
//! Arguments are in EBX, ECX, EDX, ESI, EDI; the number and the result in EAX.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How wide the registers of a caller are: 64 bits in 64-bit code, else 32. Compatibility mode counts as 32.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Width {
    /// 64-bit code.
    #[default]
    Bits64,
    /// All other.
    Bits32,
}

impl Width {
    /// Bytes of an `xen_ulong_t`.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bits64 => 8,
            Self::Bits32 => 4,
        }
    }
}

/// An `xen_ulong_t` or `xen_pfn_t`: as wide as the caller's registers.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(transparent)]
pub struct XenUlong(pub u64);

/// A value that is copied to or from a guest: what a 32-bit guest has in its place.
pub trait Compat: Copy + FromBytes + IntoBytes + Immutable {
    /// The layout of a 32-bit guest.
    type Narrow: Copy + FromBytes + IntoBytes + Immutable;
    /// True where it is the same.
    const IS_SAME: bool;
    /// From a 32-bit guest's; numbers are extended by zeroes, padding is 0.
    fn widen(narrow: Self::Narrow) -> Self;
    /// To a 32-bit guest's; numbers lose their upper halves.
    fn narrow(self) -> Self::Narrow;

    /// Bytes that it takes in the memory of a guest of this width.
    #[must_use]
    fn bytes(width: Width) -> usize {
        match width {
            Width::Bits64 => size_of::<Self>(),
            Width::Bits32 => size_of::<Self::Narrow>(),
        }
    }
}

/// Implements [`Compat`] for types that are the same in both widths.
macro_rules! same {
    ($($ty:ty),* $(,)?) => {
        $(impl $crate::compat::Compat for $ty {
            type Narrow = Self;
            const IS_SAME: bool = true;
            #[inline]
            fn widen(narrow: Self) -> Self {
                narrow
            }
            #[inline]
            fn narrow(self) -> Self {
                self
            }
        })*
    };
}
pub(crate) use same;

same!(u8, u16, u32, u64, i16, i32);

impl<const N: usize> Compat for [u8; N] {
    type Narrow = Self;
    const IS_SAME: bool = true;
    fn widen(narrow: Self) -> Self {
        narrow
    }
    fn narrow(self) -> Self {
        self
    }
}

impl Compat for XenUlong {
    type Narrow = u32;
    const IS_SAME: bool = false;
    #[inline]
    fn widen(narrow: u32) -> Self {
        Self(narrow.into())
    }
    #[inline]
    fn narrow(self) -> u32 {
        low(self.0)
    }
}

/// The lower half.
const fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// A field of a 32-bit layout, which stands for one of type `W`.
trait Field<W> {
    fn wide(self) -> W;
    fn of(wide: W) -> Self;
}

macro_rules! plain_fields {
    ($($ty:ty),*) => {
        $(impl Field<$ty> for $ty {
            #[inline]
            fn wide(self) -> $ty {
                self
            }
            #[inline]
            fn of(wide: $ty) -> Self {
                wide
            }
        })*
    };
}

plain_fields!(u16, u32, u64, i16, i32, [u64; 4]);

impl Field<u64> for u32 {
    #[inline]
    fn wide(self) -> u64 {
        self.into()
    }
    #[inline]
    fn of(wide: u64) -> Self {
        low(wide)
    }
}

impl Field<[u64; 6]> for [u32; 6] {
    fn wide(self) -> [u64; 6] {
        self.map(u64::from)
    }
    fn of(wide: [u64; 6]) -> Self {
        wide.map(low)
    }
}

/// One row a struct: the type of 64 bits, the name of the other, its size, its fields with their types and offsets, and
/// its padding. Sizes and offsets are those that a C compiler for i386 gives the headers of release 4.17.
macro_rules! layouts {
    ($(
        $(#[$doc:meta])*
        $wide:path => $narrow:ident: $size:literal {
            $($field:ident: $ty:ty => $offset:literal),* $(,)?
            $(; $pad:ident: $pad_ty:ty)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C, packed(4))]
        pub struct $narrow {
            $(#[doc = concat!("See [`", stringify!($wide), "`].")] pub $field: $ty,)*
            $(#[doc = "Padding."] pub $pad: $pad_ty,)*
        }

        const _: () = {
            assert!(size_of::<$narrow>() == $size, concat!("size of ", stringify!($narrow)));
            $(assert!(
                core::mem::offset_of!($narrow, $field) == $offset,
                concat!("offset of ", stringify!($field), " in ", stringify!($narrow))
            );)*
        };

        impl $crate::compat::Compat for $wide {
            type Narrow = $narrow;
            const IS_SAME: bool = false;
            #[inline]
            fn widen(narrow: $narrow) -> Self {
                let mut wide = <$wide>::default();
                $(wide.$field = Field::wide({ narrow.$field });)*
                wide
            }
            #[inline]
            fn narrow(self) -> $narrow {
                $narrow {
                    $($field: Field::of(self.$field),)*
                    $($pad: 0,)*
                }
            }
        }

        impl Field<$wide> for $narrow {
            fn wide(self) -> $wide {
                Compat::widen(self)
            }
            fn of(wide: $wide) -> Self {
                wide.narrow()
            }
        }
    )*};
}

layouts! {
    /// `compat_memory_reservation`.
    crate::memory::XenMemoryReservation => CompatMemoryReservation: 20 {
        extent_start: u32 => 0, nr_extents: u32 => 4, extent_order: u32 => 8, mem_flags: u32 => 12, domid: u16 => 16;
        _pad: u16
    }
    /// `compat_add_to_physmap`.
    crate::memory::XenAddToPhysmap => CompatAddToPhysmap: 16 {
        domid: u16 => 0, size: u16 => 2, space: u32 => 4, idx: u32 => 8, gpfn: u32 => 12
    }
    /// `compat_add_to_physmap_batch`.
    crate::memory::XenAddToPhysmapBatch => CompatAddToPhysmapBatch: 20 {
        domid: u16 => 0, space: u16 => 2, size: u16 => 4, foreign_domid: u16 => 6, idxs: u32 => 8, gpfns: u32 => 12,
        errs: u32 => 16
    }
    /// `compat_remove_from_physmap`: the frame lies behind padding of 2 bytes, which is in the upper half of `domid`
    /// here.
    crate::memory::XenRemoveFromPhysmap => CompatRemoveFromPhysmap: 8 {
        domid: PaddedDomid => 0, gpfn: u32 => 4
    }
    /// `compat_memory_map`.
    crate::memory::XenMemoryMap => CompatMemoryMap: 8 { nr_entries: u32 => 0, buffer: u32 => 4 }
    /// `compat_foreign_memory_map`.
    crate::memory::XenForeignMemoryMap => CompatForeignMemoryMap: 12 {
        domid: PaddedDomid => 0, map: CompatMemoryMap => 4
    }
    /// `compat_pod_target`.
    crate::memory::XenPodTarget => CompatPodTarget: 36 {
        target_pages: u64 => 0, tot_pages: u64 => 8, pod_cache_pages: u64 => 16, pod_entries: u64 => 24,
        domid: u16 => 32; _pad: u16
    }
    /// `compat_mem_acquire_resource`.
    crate::memory::XenMemAcquireResource => CompatMemAcquireResource: 28 {
        domid: u16 => 0, type_: u16 => 2, id: u32 => 4, nr_frames: u32 => 8, pad: u32 => 12, frame: u64 => 16,
        frame_list: u32 => 24
    }
    /// `compat_gnttab_setup_table`.
    crate::grant_table::GnttabSetupTable => CompatGnttabSetupTable: 16 {
        dom: PaddedDomid => 0, nr_frames: u32 => 4, status: PaddedStatus => 8, frame_list: u32 => 12
    }
    /// A side of [`CompatGnttabCopy`].
    crate::grant_table::GnttabCopyPtr => CompatGnttabCopyPtr: 8 { u: u32 => 0, domid: u16 => 4, offset: u16 => 6 }
    /// `compat_gnttab_copy`.
    crate::grant_table::GnttabCopy => CompatGnttabCopy: 24 {
        source: CompatGnttabCopyPtr => 0, dest: CompatGnttabCopyPtr => 8, len: u16 => 16, flags: u16 => 18,
        status: i16 => 20; _pad: u16
    }
    /// `compat_vcpu_runstate_info`.
    crate::vcpu::VcpuRunstateInfo => CompatVcpuRunstateInfo: 44 {
        state: i32 => 0, state_entry_time: u64 => 4, time: [u64; 4] => 12
    }
    /// `compat_vcpu_register_runstate_memory_area`: a union with a 64-bit address, of which this half counts.
    crate::vcpu::VcpuRegisterMemoryArea => CompatVcpuRegisterMemoryArea: 8 { addr: u32 => 0; _pad: u32 }
    /// `compat_vcpu_set_singleshot_timer`.
    crate::vcpu::VcpuSetSingleshotTimer => CompatVcpuSetSingleshotTimer: 12 {
        timeout_abs_ns: u64 => 0, flags: u32 => 8
    }
    /// `compat_sched_poll`.
    crate::sched::SchedPoll => CompatSchedPoll: 16 { ports: u32 => 0, nr_ports: u32 => 4, timeout: u64 => 8 }
    /// `compat_platform_parameters`.
    crate::version::XenPlatformParameters => CompatPlatformParameters: 4 { virt_start: u32 => 0 }
    /// `compat_multicall_entry`.
    crate::xen::MulticallEntry => CompatMulticallEntry: 32 { op: u32 => 0, result: u32 => 4, args: [u32; 6] => 8 }
}

/// A domid and the padding behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PaddedDomid {
    /// Whose.
    pub domid: u16,
    /// Padding.
    pub _pad: u16,
}

impl Field<u16> for PaddedDomid {
    fn wide(self) -> u16 {
        self.domid
    }
    fn of(domid: u16) -> Self {
        Self { domid, _pad: 0 }
    }
}

/// A status of a grant operation and the padding behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PaddedStatus {
    /// Out: [`crate::grant_table::GNTST_okay`] and its like.
    pub status: i16,
    /// Padding.
    pub _pad: u16,
}

impl Field<i16> for PaddedStatus {
    fn wide(self) -> i16 {
        self.status
    }
    fn of(status: i16) -> Self {
        Self { status, _pad: 0 }
    }
}

/// Where things are in the page that a 32-bit domain shares with the hypervisor (`compat_shared_info`). Pending bits
/// are where they are in a 64-bit one, as [`crate::xen::SharedInfo`] has them.
pub mod shared_info {
    /// Ports of the two-level ABI: 32 words of 32.
    pub const NR_CHANNELS: u32 = 32 * 32;
    /// Mask bits.
    pub const EVTCHN_MASK: usize = 2176;
    /// Version of the wall clock.
    pub const WC_VERSION: usize = 2304;
    /// Its seconds, low half.
    pub const WC_SEC: usize = 2308;
    /// And ns.
    pub const WC_NSEC: usize = 2312;
    /// Seconds, high half: behind the arch part.
    pub const WC_SEC_HI: usize = 2340;
    /// In a `compat_vcpu_info`: a bit per word of 32 pending bits to look at. Its flags and its time are where they are
    /// in a 64-bit one.
    pub const VCPU_INFO_PENDING_SEL: usize = 4;
}
