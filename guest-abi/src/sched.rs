//! public/sched.h: arguments of `sched_op` (rdi = sub-operation, rsi = pointer).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Gives up the CPU, staying runnable.
pub const SCHEDOP_yield: u32 = 0;
/// Enables event delivery and waits for an event.
pub const SCHEDOP_block: u32 = 1;
/// Ends the domain, for the reason given.
pub const SCHEDOP_shutdown: u32 = 2;
/// Waits for any of some ports, or a time.
pub const SCHEDOP_poll: u32 = 3;
/// Ends another domain.
pub const SCHEDOP_remote_shutdown: u32 = 4;
/// Records a reason without ending.
pub const SCHEDOP_shutdown_code: u32 = 5;
/// Sets up, refreshes or stops a watchdog.
pub const SCHEDOP_watchdog: u32 = 6;
/// Pins a vCPU for a moment.
pub const SCHEDOP_pin_override: u32 = 7;

/// The domain is done.
pub const SHUTDOWN_poweroff: u32 = 0;
/// Start it again.
pub const SHUTDOWN_reboot: u32 = 1;
/// It can be saved now.
pub const SHUTDOWN_suspend: u32 = 2;
/// It crashed.
pub const SHUTDOWN_crash: u32 = 3;
/// Its watchdog expired.
pub const SHUTDOWN_watchdog: u32 = 4;
/// It wants its state reset, memory kept.
pub const SHUTDOWN_soft_reset: u32 = 5;
/// Largest reason.
pub const SHUTDOWN_MAX: u32 = 5;

/// Argument of [`SCHEDOP_shutdown`] and [`SCHEDOP_shutdown_code`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct SchedShutdown {
    /// [`SHUTDOWN_poweroff`] and its like.
    pub reason: u32,
}

/// Argument of [`SCHEDOP_poll`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct SchedPoll {
    /// Linear address of `nr_ports` port numbers (`u32`).
    pub ports: u64,
    /// At most 128.
    pub nr_ports: u32,
    /// Padding.
    pub _pad: u32,
    /// Absolute system time in ns, 0 for ever.
    pub timeout: u64,
}

/// Argument of [`SCHEDOP_remote_shutdown`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct SchedRemoteShutdown {
    /// Whom to end.
    pub domain_id: u16,
    /// Padding.
    pub _pad: u16,
    /// [`SHUTDOWN_poweroff`] and its like.
    pub reason: u32,
}

/// Argument of [`SCHEDOP_watchdog`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct SchedWatchdog {
    /// Which; 0 for a new one.
    pub id: u32,
    /// Seconds from now; 0 stops it.
    pub timeout: u32,
}

/// Argument of [`SCHEDOP_pin_override`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct SchedPinOverride {
    /// Physical CPU, or negative to undo.
    pub pcpu: i32,
}
