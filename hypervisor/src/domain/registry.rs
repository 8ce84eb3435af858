//! Finding a domain by its number.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hv_core::domid::DomId;
use hv_hw::sync::{RankedLock, rank};

use super::Domain;

static DOMAINS: RankedLock<Vec<Arc<Domain>>, { rank::DOMAIN_REGISTRY }> =
    RankedLock::new(Vec::new());

/// Makes a domain known.
pub fn add(domain: Arc<Domain>) {
    DOMAINS.lock().push(domain);
}

/// The domain with this number.
#[must_use]
pub fn find(id: DomId) -> Option<Arc<Domain>> {
    DOMAINS
        .lock()
        .iter()
        .find(|domain| domain.id == id)
        .cloned()
}

/// All domains, in order of creation.
#[must_use]
pub fn all() -> Vec<Arc<Domain>> {
    DOMAINS.lock().clone()
}
