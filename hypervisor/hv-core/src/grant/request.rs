//! Decoding the elements of grant operations: what is asked, checked as far as the element alone tells.
//!
//! Domains stay raw numbers here: the caller resolves `DOMID_SELF` and looks them up.

use guest_abi::grant_table as abi;
use guest_abi::xen::DOMID_SELF;

use super::{GrantError, GrantRef, Handle, Want};
use crate::addr::{Gfn, Gpa, PAGE_SIZE};

/// Map this page of that domain there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapRequest {
    pub granter: u16,
    pub reference: GrantRef,
    pub want: Want,
    /// Where to map it.
    pub gfn: Gfn,
}

/// Unmap this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnmapRequest {
    pub handle: Handle,
    pub gfn: Gfn,
}

/// Copy these bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyRequest {
    pub source: CopySide,
    pub dest: CopySide,
    /// How many bytes; from either offset they stay in one page.
    pub len: u16,
}

/// One end of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopySide {
    /// A page that a domain granted.
    Granted {
        granter: u16,
        reference: GrantRef,
        /// Bytes from the start of the page.
        offset: u16,
    },
    /// A page of the caller's own.
    Own {
        gfn: Gfn,
        /// Bytes from the start of the page.
        offset: u16,
    },
}

impl MapRequest {
    /// Reads `public/grant_table.h, GNTTABOP_map_grant_ref` as a guest with a p2m may use it: mapped for the CPU, at a
    /// guest physical address.
    ///
    /// # Errors
    /// [`GrantError::General`] for the kinds of mapping that need page tables or an IOMMU shared with the hypervisor,
    /// [`GrantError::BadRef`] for flags that ask for no mapping, [`GrantError::BadAddress`] for no page's address.
    pub fn decode(element: &abi::GnttabMapGrantRef) -> Result<Self, GrantError> {
        const UNSUPPORTED: u32 =
            abi::GNTMAP_device_map | abi::GNTMAP_application_map | abi::GNTMAP_contains_pte;
        if element.flags & UNSUPPORTED != 0 {
            return Err(GrantError::General);
        }
        if element.flags & abi::GNTMAP_host_map == 0 {
            return Err(GrantError::BadRef);
        }
        let want = if element.flags & abi::GNTMAP_readonly == 0 {
            Want::Write
        } else {
            Want::Read
        };
        Ok(Self {
            granter: element.dom,
            reference: GrantRef::new(element.ref_),
            want,
            gfn: page(element.host_addr)?,
        })
    }
}

impl UnmapRequest {
    /// Reads `public/grant_table.h, GNTTABOP_unmap_grant_ref`; the address for devices is of no meaning here.
    ///
    /// # Errors
    /// [`GrantError::BadAddress`] for no page's address.
    pub fn decode(element: &abi::GnttabUnmapGrantRef) -> Result<Self, GrantError> {
        Ok(Self {
            handle: Handle::new(element.handle),
            gfn: page(element.host_addr)?,
        })
    }
}

impl CopyRequest {
    /// Reads `public/grant_table.h, GNTTABOP_copy`.
    ///
    /// # Errors
    /// [`GrantError::BadCopyArg`] where the bytes leave a page, [`GrantError::PermissionDenied`] for a page that is
    /// neither granted nor the caller's own.
    pub fn decode(element: &abi::GnttabCopy) -> Result<Self, GrantError> {
        let side = |ptr: &abi::GnttabCopyPtr, is_reference| {
            let end = u64::from(ptr.offset) + u64::from(element.len);
            if end > PAGE_SIZE {
                return Err(GrantError::BadCopyArg);
            }
            CopySide::decode(ptr, is_reference)
        };
        Ok(Self {
            source: side(
                &element.source,
                element.flags & abi::GNTCOPY_source_gref != 0,
            )?,
            dest: side(&element.dest, element.flags & abi::GNTCOPY_dest_gref != 0)?,
            len: element.len,
        })
    }
}

impl CopySide {
    fn decode(ptr: &abi::GnttabCopyPtr, is_reference: bool) -> Result<Self, GrantError> {
        let offset = ptr.offset;
        if is_reference {
            let [a, b, c, d, ..] = ptr.u.to_le_bytes();
            Ok(Self::Granted {
                granter: ptr.domid,
                reference: GrantRef::new(u32::from_le_bytes([a, b, c, d])),
                offset,
            })
        } else if ptr.domid == DOMID_SELF {
            let gfn = Gfn::new(ptr.u);
            Ok(Self::Own { gfn, offset })
        } else {
            Err(GrantError::PermissionDenied)
        }
    }
}

fn page(address: u64) -> Result<Gfn, GrantError> {
    let address = Gpa::new(address);
    if address.page_offset() == 0 {
        Ok(Gfn::containing(address))
    } else {
        Err(GrantError::BadAddress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_elements_are_decoded_or_refused_by_their_flags() {
        let element = abi::GnttabMapGrantRef {
            host_addr: 0x1234_5000,
            flags: abi::GNTMAP_host_map | abi::GNTMAP_readonly,
            ref_: 9,
            dom: 3,
            ..Default::default()
        };
        let decoded = MapRequest::decode(&element).unwrap();
        assert_eq!((decoded.granter, decoded.reference.get()), (3, 9));
        assert_eq!(
            (decoded.want, decoded.gfn),
            (Want::Read, Gfn::new(0x1_2345))
        );
        let with_flags = |flags| MapRequest::decode(&abi::GnttabMapGrantRef { flags, ..element });
        assert_eq!(
            with_flags(abi::GNTMAP_host_map).map(|m| m.want),
            Ok(Want::Write)
        );
        assert_eq!(with_flags(0), Err(GrantError::BadRef));
        for extra in [
            abi::GNTMAP_device_map,
            abi::GNTMAP_application_map,
            abi::GNTMAP_contains_pte,
        ] {
            assert_eq!(
                with_flags(abi::GNTMAP_host_map | extra),
                Err(GrantError::General)
            );
        }
        let askew = abi::GnttabMapGrantRef {
            host_addr: 0x1001,
            ..element
        };
        assert_eq!(MapRequest::decode(&askew), Err(GrantError::BadAddress));
    }

    #[test]
    fn copy_elements_stay_in_their_pages() {
        let side = |u, domid, offset| abi::GnttabCopyPtr {
            u,
            domid,
            offset,
            _pad: 0,
        };
        let element = abi::GnttabCopy {
            source: side(5, 3, 96),
            dest: side(0x777, 0x7FF0, 0),
            len: 4000,
            flags: abi::GNTCOPY_source_gref,
            ..Default::default()
        };
        let decoded = CopyRequest::decode(&element).unwrap();
        let source = CopySide::Granted {
            granter: 3,
            reference: GrantRef::new(5),
            offset: 96,
        };
        let dest = CopySide::Own {
            gfn: Gfn::new(0x777),
            offset: 0,
        };
        assert_eq!(
            (decoded.source, decoded.dest, decoded.len),
            (source, dest, 4000)
        );
        let long = abi::GnttabCopy {
            len: 4001,
            ..element
        };
        assert_eq!(CopyRequest::decode(&long), Err(GrantError::BadCopyArg));
        let longest = abi::GnttabCopy {
            len: u16::MAX,
            source: side(5, 3, u16::MAX),
            ..element
        };
        assert_eq!(CopyRequest::decode(&longest), Err(GrantError::BadCopyArg));
        let others = abi::GnttabCopy {
            dest: side(0x777, 4, 0),
            ..element
        };
        assert_eq!(
            CopyRequest::decode(&others),
            Err(GrantError::PermissionDenied)
        );
    }
}
