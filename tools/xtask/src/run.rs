//! `cargo xtask run`: everything from a fresh clone to dom0's shell on the user's terminal.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use harness::clock::FOREVER;
use harness::{Clock, Limit, Machine, Network, Running, Seen};

use crate::hardware::{self, Hardware};
use crate::{emulators, image, paths, setup, terminal};

/// The machine, and how it is watched.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten, next_help_heading = "Machine")]
    pub(crate) hardware: Hardware,
    /// Do not connect keyboard and screen; for scripts, with --until
    #[arg(long)]
    pub(crate) headless: bool,
    /// End successfully as soon as the console has this text
    #[arg(long)]
    pub(crate) until: Option<String>,
    /// End with an error after this many seconds
    #[arg(long)]
    pub(crate) timeout: Option<u64>,
    #[command(flatten, next_help_heading = "Image")]
    pub(crate) image: image::Args,
}

/// Sets up, builds, boots, and bridges the terminal until the user quits, the text is seen, or the machine ends.
///
/// # Errors
/// Something before the boot failed; or `--until`'s text was not seen.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (model, reason) = args.hardware.model()?;
    setup::for_running()?;
    let (programs, bochs_is_mended) = emulators::programs()?;
    let mut image = args.image.clone();
    if !bochs_is_mended && !model.is_qemu() {
        // The unmended Bochs gets posted interrupts wrong.
        image.append = image::join("apicv=off", &image.append);
    }
    let iso = image::run(&image)?;
    let work = paths::out().join("run");
    eprintln!("  starting {}: {reason}", hardware::describe(&model));
    let machine = Machine {
        disk: args.hardware.disk(&work)?,
        model,
        programs,
        memory_mib: args.hardware.memory,
        iso,
        network: Network::User,
        work,
    };
    std::fs::create_dir_all(paths::logs())?;
    let mut running = Running::start(&machine, &paths::logs().join("run.log"), show)?;
    if args.headless {
        watch(args, &mut running)
    } else {
        terminal::bridge(&mut running, |running, quit| until_end(args, running, quit))
    }
}

/// Waits for `--until` (or the machine's end), printing the console as it comes.
fn watch(args: &Args, running: &mut Running) -> Result<()> {
    let limit = limit(args);
    let text = wanted(args);
    match running.console.wait_for(&[text], limit) {
        Seen::Found(_) => {
            // The tap prints the rest of the line as it comes.
            running.console.finish_line(Duration::from_millis(500));
            Ok(())
        }
        Seen::Closed if text == NEVER => Ok(()),
        Seen::Closed => bail!("the machine ended before {text:?} was seen"),
        Seen::TimedOut | Seen::Silent => bail!("the time was over before {}", waited_for(args)),
    }
}

/// A text that cannot come: where nothing else is waited for, the machine's end is.
const NEVER: &str = "\u{0}\u{0}";

/// Returns the text that ends the run: the user's, else the one after a script.
fn wanted(args: &Args) -> &str {
    match &args.until {
        Some(text) => text,
        None if args.image.script.is_some() => "SCENARIO END",
        None => NEVER,
    }
}

fn waited_for(args: &Args) -> String {
    match wanted(args) {
        NEVER => "the machine ended".to_owned(),
        text => format!("{text:?} was seen"),
    }
}

/// Returns the user's limit, which is in the user's time.
fn limit(args: &Args) -> Limit {
    Clock::wall().after(args.timeout.map_or(FOREVER, Duration::from_secs))
}

fn show(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes);
    let _ = out.flush();
}

fn until_end(args: &Args, running: &mut Running, quit: &AtomicBool) -> Result<()> {
    let limit = limit(args);
    let text = wanted(args);
    loop {
        // Short waits, so that the key that quits is seen soon.
        let slice = limit.within(Duration::from_millis(50));
        match running.console.wait_for(&[text], slice) {
            Seen::Found(_) => return Ok(()),
            Seen::Closed if text != NEVER => {
                bail!("the machine ended before {}", waited_for(args))
            }
            Seen::Closed => return Ok(()),
            Seen::TimedOut | Seen::Silent => {}
        }
        if quit.load(Ordering::Relaxed) {
            return Ok(());
        }
        if limit.is_reached() {
            bail!("the time was over before {}", waited_for(args));
        }
    }
}
