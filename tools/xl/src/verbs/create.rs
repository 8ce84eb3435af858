//! `xl create`: a configuration becomes a running domain.
//!
//! The file is read and checked before anything is asked of the hypervisor. With `-c` the domain starts only when its
//! console is attached, so that no line is lost. A monitor of its own stays behind to act on the domain's end.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use indicatif::ProgressBar;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use toolstack::config::{self, DomainConfig};
use toolstack::create::{Created, Options, Timings};
use toolstack::{During, Error, monitor};

use super::console;
use crate::config_file::{ConfigWords, make_absolute};
use crate::context::Context;
use crate::failure::{Failure, NOT_CREATED, Outcome};
use crate::output;
use crate::table::Verb;

/// Exit code where a signal came: a shell's for SIGINT.
const INTERRUPTED: u8 = 130;

/// What a configuration may say, for help and the man page.
const KEYS: &str = r#"The file is Xen's format, xl.cfg(5): KEY = VALUE, # comments, [ lists ]. A word KEY="VALUE" of the command line
overrides the file: xl create web.cfg memory=512 extra="console=hvc0 quiet"

What it needs:
  name = "web"                    letters, digits and more; not digits alone
  kernel = "/boot/vmlinuz"        bzImage or ELF with a PVH entry
  memory = 512                    MiB
What it may say:
  ramdisk, cmdline, or root and extra             the kernel's initrd and command line
  maxmem = 1024, vcpus = 2, maxvcpus = 4
  disk = [ "phy:/dev/vg/web,xvda,w", "format=raw,vdev=xvdb,access=ro,target=/srv/b.img" ]
  vif = [ "mac=00:16:3e:00:00:01,bridge=xenbr0,rate=10Mb/s" ]
  on_poweroff, on_reboot, on_crash, on_watchdog   destroy, restart, rename-restart, preserve,
                                                  coredump-destroy, coredump-restart
  cpus, cpus_soft = "0-3,^1"      where its vCPUs may, and had better, run; or one entry a vCPU
  cpuid = "host,avx512f=0"        or [ "1:ecx=xxxx…" ]
  cpu_weight = 256, cap = 0       shares of CPU time
  uuid, type = "pvh", pool, tsc_mode, localtime, rtc_timeoffset, claim_mode, msr_relaxed,
  max_grant_frames, max_maptrack_frames, max_event_channels
A key that is unknown, or that a guest starts without (vfb, usbdevice ...), is warned of. What it may not be able to do
without (pci, p9, vtpm ...) is an error. What no key says comes from /etc/xen/xl.conf, xl.conf(5).

Exit code: 0, 1 where it failed (nothing is left behind then), 3 where FILE cannot be read."#;

/// Create a domain from a configuration file
#[derive(Debug, Parser)]
#[command(after_help = KEYS, override_usage = "xl create [OPTIONS] FILE [KEY=\"VALUE\"]...")]
pub struct Create {
    /// Print no messages, not even warnings; errors are told
    #[arg(short, long)]
    quiet: bool,
    /// Create nothing; print the configuration as libxl's JSON
    #[arg(short = 'n', long)]
    dryrun: bool,
    /// Leave it paused
    #[arg(short)]
    paused: bool,
    /// Attach to its console
    #[arg(short)]
    console: bool,
    /// Stay in the foreground until it ends, and act on its end
    #[arg(short = 'F')]
    foreground: bool,
    /// Let nobody act on its end
    #[arg(short = 'e')]
    no_monitor: bool,
    /// Print the configuration as JSON too, on stderr
    #[arg(short)]
    debug: bool,
    /// Print how long each step took
    #[arg(long)]
    timings: bool,
    /// Ignore the host's CPU masks (vm.cpumask and vm.hvm.cpumask of xl.conf)
    #[arg(short, long)]
    ignore_global_affinity_masks: bool,
    /// Attach a VNC viewer (not supported)
    #[arg(short = 'V', long, hide = true)]
    vncviewer: bool,
    /// Attach a VNC viewer and send the password (not supported)
    #[arg(short = 'A', long, hide = true)]
    vncviewer_autopass: bool,
    /// Configuration's file
    #[arg(short = 'f', long = "defconfig", value_name = "FILE")]
    defconfig: Option<OsString>,
    /// File, and KEY="VALUE" that are appended to its text
    words: Vec<OsString>,
}

impl Verb for Create {
    fn run(self, context: &Context) -> Outcome {
        if self.vncviewer || self.vncviewer_autopass {
            return Err(Failure::new(
                "xl create: a VNC viewer is not supported: PVH guests have no frame buffer",
            ));
        }
        let words = ConfigWords::new(self.defconfig.clone(), self.words.clone())?;
        let quiet = self.quiet || context.json();
        let host = context.host_telling(quiet)?;
        let mut config = words.read(quiet, host)?;
        if !self.ignore_global_affinity_masks {
            context.mask_cpus(&mut config)?;
        }
        let dry_run = self.dryrun || context.globals.dry_run;
        let json = || config::domain_json(&config, None, context.nr_cpus_or_here());
        if dry_run {
            output::print(&json())?;
        } else if self.debug {
            output::note(json().trim_end());
        }
        if dry_run {
            return Ok(());
        }
        make_absolute(&mut config)?;
        self.create(context, &config)
    }
}

impl Create {
    fn create(&self, context: &Context, config: &DomainConfig) -> Outcome {
        let toolstack = context.toolstack()?;
        // Before signals are held: who waits for it may be interrupted.
        let held = context.lock()?;
        let signals = Signals::hold()?;
        let progress = progress(self.quiet, &config.name);
        // It starts when the monitor knows of it, and where the console is wanted with its first line, when that is
        // there.
        let options = Options { paused: true };
        let mut tell =
            |step: &str| progress.set_message(format!("creating {}: {step}", config.name));
        let created = toolstack.create_telling(&held, config, options, &mut tell);
        progress.finish_and_clear();
        drop(held);
        let created = created.map_err(not_created)?;
        if signals.release() {
            toolstack.destroy(created.domid)?;
            return Err(Failure::with_code(
                "xl create: interrupted; the domain was destroyed again",
                INTERRUPTED,
            ));
        }
        self.after(context, &created)
    }

    /// Does what is left when the domain is there. It is there whatever fails now: the rest is done all the same.
    fn after(&self, context: &Context, created: &Created) -> Outcome {
        let mut outcome = Ok(());
        // First: who ends is acted on, however soon, and even where nobody hears what is printed.
        if !self.no_monitor && !self.foreground {
            also(&mut outcome, start_monitor(context, created));
        }
        if self.timings || context.globals.verbose > 0 {
            output::note(timings_text(&created.timings).trim_end());
        }
        if !self.quiet && !context.json() && output::shows_progress() {
            output::note(&made_text(created));
        }
        if context.json() {
            also(
                &mut outcome,
                output::print_json("create", Json::new(created)),
            );
        }
        let start = || {
            if self.paused {
                Ok(())
            } else {
                Ok(context.toolstack()?.unpause(created.domid)?)
            }
        };
        if self.console {
            let attach = |start: &mut dyn FnMut() -> Outcome| {
                console::attach(context, created.domid, console::ESCAPE, start)
            };
            also(&mut outcome, attach_then_start(attach, start));
        } else {
            also(&mut outcome, start());
        }
        if self.foreground && !self.no_monitor {
            also(&mut outcome, super::monitor::follow(created.domid));
        }
        outcome
    }
}

/// Ends where the hypervisor was there and no domain was made.
fn not_created(error: toolstack::Error) -> Failure {
    Failure {
        code: NOT_CREATED,
        ..Failure::from(error)
    }
}

/// Adds how another part went: the first failure is the outcome, a later one is told.
fn also(outcome: &mut Outcome, part: Outcome) {
    match part {
        Err(failure) if outcome.is_err() => output::note(&failure.text),
        Err(failure) => *outcome = Err(failure),
        Ok(()) => {}
    }
}

/// Attaches a console, which calls `start` when it is there. Without one, the domain is started all the same: it would
/// wait for ever.
fn attach_then_start(
    attach: impl FnOnce(&mut dyn FnMut() -> Outcome) -> Outcome,
    start: impl Fn() -> Outcome,
) -> Outcome {
    let mut was_called = false;
    let mut outcome = attach(&mut || {
        was_called = true;
        start()
    });
    if !was_called {
        also(&mut outcome, start());
    }
    outcome
}

/// SIGINT, SIGTERM and SIGHUP held back: half a domain is nothing to leave behind.
struct Signals {
    came: Arc<AtomicBool>,
    ends_program: Arc<AtomicBool>,
}

impl Signals {
    fn hold() -> Result<Self, Failure> {
        let signals = Self {
            came: Arc::default(),
            ends_program: Arc::default(),
        };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let code = INTERRUPTED.into();
            flag::register_conditional_shutdown(signal, code, Arc::clone(&signals.ends_program))?;
            flag::register(signal, Arc::clone(&signals.came))?;
        }
        Ok(signals)
    }

    /// Lets signals end the program again; tells whether one came.
    fn release(&self) -> bool {
        self.ends_program.store(true, Ordering::Relaxed);
        self.came.load(Ordering::Relaxed)
    }
}

/// Shows on a terminal that something is being done; nothing elsewhere.
fn progress(quiet: bool, name: &str) -> ProgressBar {
    if quiet || !output::shows_progress() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(format!("creating {name}"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Has the host's monitor act on the domain's end: where there is none, this program is started once more to be it.
fn start_monitor(context: &Context, created: &Created) -> Outcome {
    let toolstack = context.toolstack()?;
    let started = toolstack.follow(created.domid).and_then(|()| {
        if monitor::is_there(&toolstack.paths)? {
            return Ok(());
        }
        let log = toolstack.paths.logs.join("xl-monitor.log");
        let program = std::env::current_exe().map_err(|error| Error::file("xl", error))?;
        monitor::spawn(&program, &["-T".as_ref(), "monitor".as_ref()], &log).map(drop)
    });
    started
        .during("starting the monitor: the domain runs, but nobody will act on its end")
        .map_err(Failure::from)
}

/// Says on a terminal that it is there: a script has the exit code, as with xl.
fn made_text(created: &Created) -> String {
    format!(
        "{} is domain {} ({:.1} s)",
        created.config.name,
        created.domid,
        created.timings.total().as_secs_f64()
    )
}

/// Gives the table of steps.
pub fn timings_text(timings: &Timings) -> String {
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    let mut text = String::new();
    for (step, took) in &timings.0 {
        text.push_str(&format!("{step:<32} {:>10.3} ms\n", ms(*took)));
    }
    text.push_str(&format!(
        "{:<32} {:>10.3} ms\n",
        "together",
        ms(timings.total())
    ));
    text
}

#[derive(Serialize)]
struct Json<'a> {
    domid: u16,
    name: &'a str,
    uuid: String,
    took_us: u128,
    steps: Vec<StepJson>,
}

#[derive(Serialize)]
struct StepJson {
    name: &'static str,
    took_us: u128,
}

impl<'a> Json<'a> {
    fn new(created: &'a Created) -> Self {
        Self {
            domid: created.domid,
            name: &created.config.name,
            uuid: created.config.uuid.to_string(),
            took_us: created.timings.total().as_micros(),
            steps: created
                .timings
                .0
                .iter()
                .map(|(name, took)| StepJson {
                    name,
                    took_us: took.as_micros(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn where_no_domain_comes_of_it_the_exit_code_is_libxls() {
        let error = toolstack::Error::Timeout("no backend".to_owned());
        let failure = not_created(error);
        assert_eq!(
            (failure.code, failure.text.contains("no backend")),
            (3, true)
        );
    }

    #[test]
    fn a_domain_starts_without_the_console_that_it_was_to_have() {
        let starts = Cell::new(0);
        let start = || {
            starts.set(starts.get() + 1);
            Ok(())
        };
        attach_then_start(|start| start(), start).unwrap();
        assert_eq!(starts.get(), 1);
        let no_console = |_: &mut dyn FnMut() -> Outcome| Err(Failure::new("no console"));
        let failure = attach_then_start(no_console, start).unwrap_err();
        assert_eq!((starts.get(), failure.text.as_str()), (2, "no console"));
    }

    #[test]
    fn the_first_failure_counts_and_the_rest_is_done() {
        let mut outcome = Ok(());
        also(&mut outcome, Ok(()));
        assert!(outcome.is_ok());
        also(&mut outcome, Err(Failure::with_code("first", 3)));
        also(&mut outcome, Err(Failure::new("second")));
        also(&mut outcome, Ok(()));
        assert_eq!(outcome.unwrap_err().code, 3);
    }

    #[test]
    fn timings_are_told_by_step() {
        let timings = Timings(vec![
            ("making vCPUs", Duration::from_micros(1500)),
            ("claiming memory", Duration::from_micros(20)),
        ]);
        assert_eq!(
            timings_text(&timings),
            "making vCPUs                          1.500 ms\nclaiming memory                       0.020 ms\ntogether                              1.520 ms\n"
        );
    }
}
