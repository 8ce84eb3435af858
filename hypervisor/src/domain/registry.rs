//! Finding a domain by its number, and giving out numbers.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::iter;

use hv_core::domid::DomId;
use hv_hw::sync::{RankedLock, rank};

use crate::domain::{Domain, domains};

/// The domains of a machine, by number.
pub(super) type Registry = RankedLock<Table, { rank::DOMAIN_REGISTRY }>;

/// What the registry locks.
pub(super) struct Table {
    /// In ascending order of number.
    domains: Vec<Arc<Domain>>,
    /// Numbers that domains in the making have.
    reserved: Vec<DomId>,
    /// The number given out last.
    last: u16,
}

impl Table {
    pub(super) const fn new() -> Self {
        Self {
            domains: Vec::new(),
            reserved: Vec::new(),
            last: 0,
        }
    }
}

#[inline]
fn registry() -> &'static Registry {
    &domains().registry
}

/// A number that nobody else gets. Dropped, it is free again.
#[derive(Debug)]
pub(crate) struct Reserved(DomId);

impl Reserved {
    #[must_use]
    pub(crate) fn id(&self) -> DomId {
        self.0
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        registry().lock().reserved.retain(|id| *id != self.0);
    }
}

impl Table {
    fn place(&self, id: DomId) -> Result<usize, usize> {
        self.domains.binary_search_by_key(&id, |domain| domain.id)
    }
    fn is_free(&self, id: DomId) -> bool {
        self.place(id).is_err() && !self.reserved.contains(&id)
    }
}

/// Keeps `wanted` for a domain in the making, or where that is `None` the next free number after the last one given
/// out, from 1 on. `None` where it is taken, or all are, or the heap is out.
#[must_use]
pub(crate) fn reserve(wanted: Option<DomId>) -> Option<Reserved> {
    const NUMBERS: u16 = DomId::FIRST_RESERVED - 1;
    let mut table = registry().lock();
    // for it, and for those that have a number already
    let more = table.reserved.len() + 1;
    table.domains.try_reserve(more).ok()?;
    table.reserved.try_reserve(1).ok()?;
    let id = match wanted {
        Some(id) if table.is_free(id) => id,
        Some(_) => return None,
        None => {
            let last = table.last;
            let id = (0..NUMBERS)
                .map(|step| (u32::from(last) + u32::from(step)) % u32::from(NUMBERS) + 1)
                .filter_map(|raw| DomId::new(u16::try_from(raw).ok()?))
                .find(|id| table.is_free(*id))?;
            table.last = id.get();
            id
        }
    };
    table.reserved.push(id);
    Some(Reserved(id))
}

/// Makes a domain known.
pub(crate) fn add(domain: Arc<Domain>) {
    let mut table = registry().lock();
    if let Err(place) = table.place(domain.id) {
        table.domains.insert(place, domain);
    }
}

/// Forgets a domain; its number is free again. What it holds goes with the last reference to it. False where it was not
/// known: another may have its number by then.
pub(crate) fn remove(domain: &Arc<Domain>) -> bool {
    let mut table = registry().lock();
    let Ok(place) = table.place(domain.id) else {
        return false;
    };
    let is_it = Arc::ptr_eq(&table.domains[place], domain);
    let removed = is_it.then(|| table.domains.remove(place));
    drop(table);
    removed.is_some()
}

/// The domain with this number, a dying one as well: what that may no longer give, its parts refuse under their locks.
#[must_use]
pub(crate) fn find(id: DomId) -> Option<Arc<Domain>> {
    let table = registry().lock();
    let place = table.place(id).ok()?;
    table.domains.get(place).cloned()
}

/// The first domain whose number is `raw` or higher.
#[must_use]
pub(crate) fn first_from(raw: u16) -> Option<Arc<Domain>> {
    let table = registry().lock();
    let place = table
        .domains
        .partition_point(|domain| domain.id.get() < raw);
    table.domains.get(place).cloned()
}

/// All domains, in ascending order of number: each as it is when its turn comes.
pub(crate) fn all() -> impl Iterator<Item = Arc<Domain>> {
    let mut next = Some(0);
    iter::from_fn(move || {
        let domain = first_from(next?)?;
        next = domain.id.get().checked_add(1);
        Some(domain)
    })
}
