//! Size and offsets of every struct here, checked when the crate is compiled against what a C compiler makes of the
//! headers of release 4.17 (x86-64). There is nothing to call.

macro_rules! layout {
    ($($ty:path: $size:literal { $($field:ident @ $offset:literal),* $(,)? })*) => {
        $(const _: () = {
            assert!(size_of::<$ty>() == $size, concat!("size of ", stringify!($ty)));
            $(assert!(
                core::mem::offset_of!($ty, $field) == $offset,
                concat!("offset of ", stringify!($field), " in ", stringify!($ty))
            );)*
        };)*
    };
}

layout! {
    crate::xen::VcpuTimeInfo: 32 {
        version @ 0, tsc_timestamp @ 8, system_time @ 16, tsc_to_system_mul @ 24, tsc_shift @ 28, flags @ 29,
    }
    crate::xen::VcpuInfo: 64 {
        evtchn_upcall_pending @ 0, evtchn_upcall_mask @ 1, evtchn_pending_sel @ 8, cr2 @ 16, time @ 32,
    }
    crate::xen::SharedInfo: 3136 {
        vcpu_info @ 0, evtchn_pending @ 2048, evtchn_mask @ 2560, wc_version @ 3072, wc_sec @ 3076, wc_nsec @ 3080,
        wc_sec_hi @ 3084, arch @ 3088,
    }
}
