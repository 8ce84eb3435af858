//! The registry of tests and their report.
//!
//! A kernel is a list of [`Test`]s given to [`run_all`]. Each prints one line, `--- test NAME: VERDICT[: text]`, and
//! the last line is `--- done`; then the guest powers off. Four verdicts (XTF's): Success, Skip (nothing to test here),
//! Error (the test itself broke, or the guest did), Failure (the hypervisor is wrong). `test=TEXT` on the command line
//! selects by substring; a test that ends the domain runs only when named exactly. `except=NAME,NAME` leaves tests out.

// UNSAFETY: the panic handler leaves its stack behind.
#![expect(unsafe_code, reason = "one function pointer is kept in an atomic")]

use crate::traps::TrapFrame;
use crate::{hypercall, insn, options, say, traps};
use arrayvec::ArrayString;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};
use guest_abi::sched::{SCHEDOP_shutdown, SHUTDOWN_poweroff, SchedShutdown};

/// Why a test did not succeed, cut off where it is too long.
#[derive(Clone, Default)]
pub struct Text(ArrayString<192>);

impl Text {
    /// Formats.
    #[must_use]
    pub fn new(args: core::fmt::Arguments<'_>) -> Self {
        let mut text = Self::default();
        let _ = text.write_fmt(args);
        text
    }
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        s.chars()
            .try_for_each(|c| self.0.try_push(c))
            .map_err(|_| core::fmt::Error)
    }
}

/// What a test that did not succeed ended with.
#[derive(Clone)]
pub enum Stop {
    /// There is nothing to test here.
    Skip(Text),
    /// The test broke.
    Error(Text),
    /// The hypervisor is wrong.
    Failure(Text),
}

/// How a test ended.
pub type Verdict = Result<(), Stop>;

/// A test.
pub struct Test {
    /// Its name, snake_case, area first.
    pub name: &'static str,
    /// What it does.
    pub run: fn() -> Verdict,
    /// Whether it ends the domain, and so runs only when named exactly.
    pub is_last: bool,
}

impl Test {
    /// A test that comes back.
    #[must_use]
    pub const fn new(name: &'static str, run: fn() -> Verdict) -> Self {
        Self {
            name,
            run,
            is_last: false,
        }
    }

    /// A test that ends the domain; whoever started it reads the verdict off the host's log.
    #[must_use]
    pub const fn last(name: &'static str, run: fn() -> Verdict) -> Self {
        Self {
            name,
            run,
            is_last: true,
        }
    }

    fn is_selected(&self) -> bool {
        let is_left_out = options::value("except")
            .is_some_and(|names| names.split(',').any(|name| name == self.name));
        if is_left_out {
            return false;
        }
        match options::value("test") {
            Some(wanted) => self.name == wanted || (!self.is_last && self.name.contains(wanted)),
            None => !self.is_last,
        }
    }
}

/// Ends the test with a failure unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($arg:tt)+) => {
        if !$condition {
            return Err($crate::Stop::Failure($crate::Text::new(format_args!($($arg)+))));
        }
    };
}

/// Ends the test with a failure unless both are equal.
#[macro_export]
macro_rules! check_eq {
    ($got:expr, $want:expr, $($arg:tt)+) => {
        match ($got, $want) {
            (got, want) => $crate::check!(
                got == want,
                "{}: got {got:?}, want {want:?} (hex {got:x?}, {want:x?})",
                format_args!($($arg)+)
            ),
        }
    };
}

/// Ends the test as one that has nothing to test here.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)+) => { return Err($crate::Stop::Skip($crate::Text::new(format_args!($($arg)+)))) };
}

/// Makes an error (the test broke).
#[macro_export]
macro_rules! broken {
    ($($arg:tt)+) => { $crate::Stop::Error($crate::Text::new(format_args!($($arg)+))) };
}

static CURRENT: AtomicPtr<Test> = AtomicPtr::new(core::ptr::null_mut());
static IS_REPORTED: AtomicBool = AtomicBool::new(false);

/// Runs the selected tests in order and reports each.
pub fn run_all(tests: &'static [Test]) {
    for test in tests.iter().filter(|test| test.is_selected()) {
        CURRENT.store(core::ptr::from_ref(test).cast_mut(), Relaxed);
        IS_REPORTED.store(false, Relaxed);
        if test.is_last {
            say!("--- last test {}", test.name);
        }
        traps::protected(run_current);
        if !IS_REPORTED.load(Relaxed) {
            report(test.name, &Err(broken!("ended early")));
        }
        insn::cli();
    }
}

/// Prints the last line and powers off.
pub fn done() -> ! {
    say!("--- done");
    if hypercall::present() {
        let _ = hypercall::sched(
            SCHEDOP_shutdown,
            SchedShutdown {
                reason: SHUTDOWN_poweroff,
            },
        );
    }
    // Bochs' own way out, for a kernel run without a hypervisor
    b"Shutdown"
        .iter()
        .for_each(|&byte| insn::outb(0x8900, byte));
    insn::halt_for_ever()
}

extern "C" fn run_current() {
    // SAFETY: `run_all` stored a reference to a static.
    let test: &'static Test = unsafe { &*CURRENT.load(Relaxed) };
    report(test.name, &(test.run)());
}

fn report(name: &str, verdict: &Verdict) {
    IS_REPORTED.store(true, Relaxed);
    match verdict {
        Ok(()) => say!("--- test {name}: Success"),
        Err(Stop::Skip(text)) => say!("--- test {name}: Skip: {}", text.0),
        Err(Stop::Error(text)) => say!("--- test {name}: Error: {}", text.0),
        Err(Stop::Failure(text)) => say!("--- test {name}: Failure: {}", text.0),
    }
}

/// Reports an exception that nobody expected as the running test's end.
pub(crate) fn note_unexpected(frame: &TrapFrame) {
    // SAFETY: `run_all` stored a reference to a static, or nothing yet.
    let name = unsafe { CURRENT.load(Relaxed).as_ref() }.map_or("(none)", |test| test.name);
    let (vector, error, rip, cr2) = (frame.vector, frame.error, frame.rip, insn::cr2());
    report(
        name,
        &Err(broken!(
            "unexpected vector {vector}, error {error:#x}, at {rip:#x}, cr2 {cr2:#x}"
        )),
    );
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: as above.
    let name = unsafe { CURRENT.load(Relaxed).as_ref() }.map_or("(none)", |test| test.name);
    report(name, &Err(broken!("{info}")));
    traps::abandon()
}
