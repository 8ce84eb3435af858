//! The machine's frames: the one frame table and the one allocator, and who takes from it.
//!
//! Frames that leave a domain are scrubbed here before anybody else sees them. Every frame of a domain is on its
//! account from the moment that it is given until its last use has ended, which may be long after the domain lost it:
//! so a domain whose [`charged`] is 0 has nothing left. What page tables need is set aside: [`pool`]. Next:
//! `hv_core::frame` for the rules.

pub(crate) mod pool;

use hv_hw::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hv_core::addr::{Mfn, MfnRange, PAGE_SIZE, PageOrder};
use hv_core::domid::DomId;
use hv_core::frame::{Buddy, CleanFrames, FrameTable, Freed, Owner, Role};
use hv_core::mem::TableFrames;
use hv_core::paging::flush::PendingFlush;
use hv_hw::sync::{Once, RankedLock, rank};
use hv_hw::{direct_map, heap};

use crate::machine::{machine, zombies};

type Allocator = RankedLock<Buddy<'static, 'static>, { rank::FRAMES }>;

/// All frames, and whose they are.
pub(super) struct Memory {
    table: Once<FrameTable<'static>>,
    free: Once<Allocator>,
    /// Free frames that are set aside for domains under construction. Changed only while the allocator is locked.
    claimed: AtomicU64,
    /// Free frames that pools promise. Changed only while the allocator is locked.
    set_aside: AtomicU64,
    /// What each domain has, by number: also what it has lost while others still use it.
    accounts: [Account; DomId::FIRST_RESERVED as usize],
    /// Bytes of the heap beside the frame table.
    heap_bytes: AtomicUsize,
}

impl Memory {
    pub(super) const fn new() -> Self {
        Self {
            table: Once::new(),
            free: Once::new(),
            claimed: AtomicU64::new(0),
            set_aside: AtomicU64::new(0),
            accounts: [const { Account::new() }; DomId::FIRST_RESERVED as usize],
            heap_bytes: AtomicUsize::new(0),
        }
    }
}

fn memory() -> &'static Memory {
    &machine().memory
}

/// The frames of one domain. The language's own atomics, which the model checker's are a hundred times as large as:
/// what is done to one is done by one instruction.
struct Account {
    ram: core::sync::atomic::AtomicU32,
    special: core::sync::atomic::AtomicU32,
}

impl Account {
    const fn new() -> Self {
        Self {
            ram: core::sync::atomic::AtomicU32::new(0),
            special: core::sync::atomic::AtomicU32::new(0),
        }
    }
    fn of(domid: DomId) -> &'static Self {
        &memory().accounts[usize::from(domid.get())]
    }
}

/// Takes the frame table into use, with no frame free yet; the heap has `heap_bytes` beside it. Once, at boot.
pub(crate) fn init(table: FrameTable<'static>, heap_bytes: usize) {
    let memory = memory();
    memory.heap_bytes.store(heap_bytes, Ordering::Relaxed);
    let table = memory.table.call_once(|| table);
    memory.free.call_once(|| RankedLock::new(Buddy::new(table)));
}

/// The records of all frames.
#[must_use]
pub(crate) fn table() -> &'static FrameTable<'static> {
    memory()
        .table
        .get()
        .expect("the frame table is set up before anything asks for frames")
}

/// True where the heap has enough left for those who cannot do without: asked before something grows that a guest can
/// make grow.
#[must_use]
pub(crate) fn heap_has_room() -> bool {
    const RESERVE: usize = 2 << 20;
    let (used, size) = heap::usage();
    // on the host there is no such heap
    size == 0 || size.saturating_sub(used) >= RESERVE
}

/// Bytes of the heap beside the frame table, which guests may fill to a part: see `domain::share`.
#[must_use]
pub(crate) fn heap_bytes() -> usize {
    memory().heap_bytes.load(Ordering::Relaxed)
}

#[must_use]
pub(crate) fn free() -> &'static Allocator {
    memory()
        .free
        .get()
        .expect("the frame table is set up before anything asks for frames")
}

/// How many frames are free, less those that are set aside for page tables.
#[must_use]
pub(crate) fn free_frames() -> u64 {
    let free = free().lock();
    free.free_frames().saturating_sub(pool::set_aside())
}

/// How many of them are below 4 GiB, at most.
#[must_use]
pub(crate) fn free_frames_below_4g() -> u64 {
    let free = free().lock();
    let all = free.free_frames().saturating_sub(pool::set_aside());
    free.free_frames_below_4g().min(all)
}

/// How many frames of RAM the machine has.
#[must_use]
pub(crate) fn total_frames() -> u64 {
    table().ram().iter().map(|range| range.len()).sum()
}

/// The number of the last frame of RAM.
#[must_use]
pub(crate) fn last_frame() -> u64 {
    let end = table().ram().last().map_or(0, |range| range.end.as_u64());
    end.saturating_sub(1)
}

/// Bits of the highest address of RAM.
#[must_use]
pub(crate) fn address_bits() -> u32 {
    let last_page = last_frame().saturating_mul(PAGE_SIZE);
    (u64::BITS - last_page.leading_zeros()).max(PAGE_SIZE.trailing_zeros())
}

/// Fills a run of frames with zeroes.
pub(crate) fn zero(range: MfnRange) {
    let mut mfn = range.start;
    while mfn < range.end {
        direct_map::zero_frame(mfn);
        mfn = mfn + 1;
    }
}

/// How many free frames are set aside for domains under construction.
#[must_use]
pub(crate) fn claimed_frames() -> u64 {
    memory().claimed.load(Ordering::Relaxed)
}

/// Frames of RAM that a domain has, or that others still use of it.
#[must_use]
pub(crate) fn ram_of(domid: DomId) -> u64 {
    u64::from(Account::of(domid).ram.load(Ordering::Relaxed))
}

/// All frames that a domain has, or that others still use of it: 0 where nothing of it is left.
#[must_use]
pub(crate) fn charged(domid: DomId) -> u64 {
    ram_of(domid) + u64::from(Account::of(domid).special.load(Ordering::Relaxed))
}

/// Notes `frames` of RAM on the domain's account, up to `max` in all; false where it would have more.
#[must_use]
pub(crate) fn charge_ram(domid: DomId, frames: u64, max: u64) -> bool {
    let more = |now: u32| {
        let sum = u64::from(now).checked_add(frames)?;
        u32::try_from(sum).ok().filter(|_| sum <= max)
    };
    Account::of(domid)
        .ram
        .fetch_update(Ordering::AcqRel, Ordering::Relaxed, more)
        .is_ok()
}

/// Takes `frames` of RAM off the account that were charged and never given.
pub(crate) fn uncharge_ram(domid: DomId, frames: u64) {
    let frames = u32::try_from(frames).expect("what is given back was charged");
    let before = Account::of(domid).ram.fetch_sub(frames, Ordering::AcqRel);
    assert!(before >= frames, "what is given back was charged");
    zombies::let_go(domid);
}

/// Sets the frames that are set aside for one domain, whose present share is `claim`.
///
/// # Errors
/// False where so many are not free, or others claim them; then nothing has changed.
#[must_use]
pub(crate) fn set_claim(claim: &AtomicU64, frames: u64) -> bool {
    let free = free().lock();
    let own = claim.load(Ordering::Relaxed);
    let others = memory().claimed.load(Ordering::Relaxed).saturating_sub(own);
    let left = free.free_frames().saturating_sub(pool::set_aside());
    match others.checked_add(frames) {
        Some(all) if all <= left || frames <= own => {
            memory().claimed.store(all, Ordering::Relaxed);
            claim.store(frames, Ordering::Relaxed);
            true
        }
        _ => false,
    }
}

/// A zeroed block of frames, for the caller to give to somebody; `None` where memory is out or set aside for others.
#[must_use]
pub(crate) fn alloc_clean(order: PageOrder) -> Option<CleanFrames> {
    alloc_claimed(order, &AtomicU64::new(0))
}

/// A zeroed block of frames, from those set aside in `claim` as far as they go.
#[must_use]
pub(crate) fn alloc_claimed(order: PageOrder, claim: &AtomicU64) -> Option<CleanFrames> {
    let frames = {
        let mut free = free().lock();
        let own = claim.load(Ordering::Relaxed);
        let all = memory().claimed.load(Ordering::Relaxed);
        let kept = all.saturating_sub(own) + pool::set_aside();
        if kept.checked_add(order.frames())? > free.free_frames() {
            return None;
        }
        let frames = free.alloc(order)?;
        let used = own.min(order.frames());
        claim.store(own - used, Ordering::Relaxed);
        memory()
            .claimed
            .store(all.saturating_sub(used), Ordering::Relaxed);
        frames
    };
    Some(frames.scrub(zero))
}

/// Exactly these frames, zeroed; `None` where one of them is not free, or others need them.
#[must_use]
pub(crate) fn alloc_exact_clean(range: MfnRange) -> Option<CleanFrames> {
    let frames = {
        let mut free = free().lock();
        let kept = memory().claimed.load(Ordering::Relaxed) + pool::set_aside();
        if kept.checked_add(range.len())? > free.free_frames() {
            return None;
        }
        free.alloc_exact(range)?
    };
    Some(frames.scrub(zero))
}

/// A zeroed frame of the hypervisor's own; `None` where memory is out.
#[must_use]
pub(crate) fn alloc_own() -> Option<Mfn> {
    keep_one(Role::Hypervisor)
}

/// Takes a frame back that [`alloc_own`] gave.
pub(crate) fn free_own(mfn: Mfn) {
    release_one(mfn);
}

/// A zeroed frame of the hypervisor's own, which goes back when it is dropped.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct OwnFrame(Mfn);

impl OwnFrame {
    /// Takes one; `None` where memory is out.
    #[must_use]
    pub(crate) fn alloc() -> Option<Self> {
        alloc_own().map(Self)
    }
    #[must_use]
    pub(crate) fn mfn(&self) -> Mfn {
        self.0
    }
}

impl Drop for OwnFrame {
    fn drop(&mut self) {
        free_own(self.0);
    }
}

/// A zeroed block of frames of the hypervisor's own; `None` where memory is out.
#[must_use]
pub(crate) fn alloc_own_block(order: PageOrder) -> Option<MfnRange> {
    keep(order, Role::Hypervisor)
}

/// A zeroed block of frames of the hypervisor's own, which go back when it is dropped.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct OwnBlock(MfnRange);

impl OwnBlock {
    /// Takes one; `None` where memory is out.
    #[must_use]
    pub(crate) fn alloc(order: PageOrder) -> Option<Self> {
        alloc_own_block(order).map(Self)
    }
    #[must_use]
    pub(crate) fn frames(&self) -> MfnRange {
        self.0
    }
}

impl Drop for OwnBlock {
    fn drop(&mut self) {
        release(self.0);
    }
}

/// A zeroed frame that belongs to a domain and that it shares with the hypervisor. Dropped, it is the domain's no
/// longer, and goes back when nobody uses it.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct SpecialFrame(Mfn);

impl SpecialFrame {
    /// Makes one; `None` where memory is out.
    #[must_use]
    pub(crate) fn alloc(domid: DomId) -> Option<Self> {
        alloc_special(domid).map(Self)
    }
    #[must_use]
    pub(crate) fn mfn(&self) -> Mfn {
        self.0
    }
}

impl Drop for SpecialFrame {
    fn drop(&mut self) {
        free_special(self.0);
    }
}

/// A zeroed frame that belongs to `domid` and that it shares with the hypervisor, until [`free_special`]; `None` where
/// memory is out.
#[must_use]
pub(crate) fn alloc_special(domid: DomId) -> Option<Mfn> {
    let frames = alloc_clean(PageOrder::SIZE_4K)?;
    Account::of(domid).special.fetch_add(1, Ordering::AcqRel);
    Some(table().give(frames, domid, Role::Special).start)
}

/// Returns a frame whose last use has ended to the free list, and takes it off its domain's account.
pub(crate) fn give_back(freed: Freed) {
    free().lock().free(freed.frames);
    let Owner::Domain(domid) = freed.owner else {
        return;
    };
    let account = Account::of(domid);
    let before = match freed.role {
        Some(Role::Special) => account.special.fetch_sub(1, Ordering::AcqRel),
        _ => account.ram.fetch_sub(1, Ordering::AcqRel),
    };
    assert!(before > 0, "a domain's frames are on its account");
    zombies::let_go(domid);
}

/// Takes a page of a domain that it shared with the hypervisor away from it, once the hypervisor uses it no longer; it
/// is freed when it is mapped nowhere.
pub(crate) fn free_special(mfn: Mfn) {
    // the hypervisor's own use of it was never a mapping
    let done = PendingFlush::none(mfn).completed();
    if let Some(freed) = table().put_mapped(mfn, &done) {
        give_back(freed);
    }
}

/// Frames for page tables, from the machine's free ones. For a domain's, see [`pool`].
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tables;

impl TableFrames for Tables {
    fn alloc_table(&mut self) -> Option<Mfn> {
        keep_one(Role::Table)
    }
    fn free_table(&mut self, table: Mfn) {
        release_one(table);
    }
}

fn keep_one(role: Role) -> Option<Mfn> {
    keep(PageOrder::SIZE_4K, role).map(|frames| frames.start)
}

fn keep(order: PageOrder, role: Role) -> Option<MfnRange> {
    let frames = alloc_clean(order)?.into_owned();
    Some(table().keep(frames, role))
}

fn release_one(mfn: Mfn) {
    release(MfnRange::new(mfn, mfn + 1));
}

fn release(frames: MfnRange) {
    let frames = table().unkeep(frames);
    free().lock().free(frames);
}
