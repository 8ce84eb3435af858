//! `cargo xtask run`: everything from a fresh clone to dom0's shell on the user's terminal.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::clock::FOREVER;
use harness::machine::DEFAULT_BOCHS_CPU;
use harness::{Clock, Emulator, Limit, Machine, Network, Running, Seen, qemu};

use crate::{bochs_build, image, paths, setup};

/// The emulators a user may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// QEMU with KVM and nested VMX
    Qemu,
    /// Bochs, which has VT-x on any host
    Bochs,
}

/// The machine, and how it is watched.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// Which emulator; without it QEMU where /dev/kvm offers nested VMX, else Bochs
    #[arg(long, value_enum)]
    pub(crate) emulator: Option<Choice>,
    /// CPU model: one of Bochs' list (bochs --help cpu), or QEMU's -cpu
    #[arg(long)]
    pub(crate) cpu: Option<String>,
    /// Number of CPUs
    #[arg(long, default_value_t = 1)]
    pub(crate) smp: u32,
    /// RAM in MiB
    #[arg(long, default_value_t = 2048)]
    pub(crate) memory: u32,
    /// Raw disk image for the IDE disk
    #[arg(long)]
    pub(crate) disk: Option<PathBuf>,
    /// Do not connect keyboard and screen; for scripts, with --until
    #[arg(long)]
    pub(crate) headless: bool,
    /// End successfully as soon as the console has this text
    #[arg(long)]
    pub(crate) until: Option<String>,
    /// End with an error after this many seconds
    #[arg(long)]
    pub(crate) timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) image: image::Args,
}

/// Ctrl-]: once it leaves a guest's console in dom0, as the machine sees it; twice it ends the machine.
const QUIT: u8 = 0x1d;

/// How soon the second one has to come.
const AGAIN: Duration = Duration::from_secs(1);

/// Looks for the key that quits.
#[derive(Default)]
struct QuitKey {
    last: Option<Instant>,
}

impl QuitKey {
    /// How much of what was typed at `now` goes to the machine, and whether it is to end then.
    fn typed(&mut self, keys: &[u8], now: Instant) -> (usize, bool) {
        for (index, _) in keys.iter().enumerate().filter(|(_, key)| **key == QUIT) {
            let before = self.last.replace(now);
            if before.is_some_and(|before| now.duration_since(before) <= AGAIN) {
                return (index, true);
            }
        }
        (keys.len(), false)
    }
}

/// Sets up, builds, boots, and bridges the terminal until the user quits, the text is seen, or the machine ends.
///
/// # Errors
/// Something before the boot failed; or `--until`'s text was not seen.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::for_running()?;
    let (emulator, program, is_mended) = choose(args.emulator)?;
    let mut image = args.image.clone();
    if !is_mended {
        // The unmended Bochs gets posted interrupts wrong.
        image.append = image::join("apicv=off", &image.append);
    }
    let iso = image::run(&image)?;
    let machine = machine(args, emulator, program, iso);
    std::fs::create_dir_all(paths::logs())?;
    let log = paths::logs().join("run.log");
    eprintln!("  starting {} ({})", emulator_name(emulator), machine.cpu);
    if args.headless {
        watch(args, &machine, &log)
    } else {
        interact(args, &machine, &log)
    }
}

/// Picks the emulator: which, its program, and whether it may be trusted with APIC virtualisation.
fn choose(choice: Option<Choice>) -> Result<(Emulator, PathBuf, bool)> {
    let nested = qemu::has_nested_vmx();
    match choice {
        Some(Choice::Qemu) if !nested => {
            bail!("/dev/kvm of this host offers no nested VMX; leave out --emulator to use Bochs")
        }
        Some(Choice::Bochs) => {}
        Some(Choice::Qemu) | None if nested => {
            return Ok((Emulator::QemuKvm, PathBuf::from("qemu-system-x86_64"), true));
        }
        _ => {}
    }
    let (program, is_mended) = bochs_build::find()?;
    Ok((Emulator::Bochs, program, is_mended))
}

fn emulator_name(emulator: Emulator) -> &'static str {
    match emulator {
        Emulator::Bochs => "Bochs",
        Emulator::QemuKvm | Emulator::QemuTcg => "QEMU",
    }
}

fn machine(args: &Args, emulator: Emulator, program: PathBuf, iso: PathBuf) -> Machine {
    let default_cpu = match emulator {
        Emulator::Bochs => DEFAULT_BOCHS_CPU,
        Emulator::QemuKvm | Emulator::QemuTcg => "host,+vmx",
    };
    Machine {
        emulator,
        program,
        cpu: args.cpu.clone().unwrap_or_else(|| default_cpu.to_owned()),
        cpus: args.smp,
        memory_mib: args.memory,
        iso,
        disk: args.disk.clone(),
        network: Network::User,
        uefi: None,
        work: paths::out().join("run"),
    }
}

/// Waits for `--until` (or the machine's end), printing the console as it comes.
fn watch(args: &Args, machine: &Machine, log: &Path) -> Result<()> {
    let mut running = Running::start(machine, log, show)?;
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

/// Connects the user's terminal to the console.
fn interact(args: &Args, machine: &Machine, log: &Path) -> Result<()> {
    if std::io::stdin().is_terminal() {
        eprintln!(
            "  Ctrl-] twice quits; Ctrl-a three times switches the input to the hypervisor and back\r"
        );
    }
    let mut running = Running::start(machine, log, show)?;
    let raw = RawTerminal::enter()?;
    let quit = Arc::new(AtomicBool::new(false));
    let mut writer = running.console.writer()?;
    let theirs = Arc::clone(&quit);
    thread::spawn(move || {
        let mut keys = [0; 256];
        let mut quit_key = QuitKey::default();
        while let Ok(n @ 1..) = std::io::stdin().lock().read(&mut keys) {
            let typed = keys.get(..n).unwrap_or_default();
            let (count, is_quit) = quit_key.typed(typed, Instant::now());
            let send = typed.get(..count).unwrap_or_default();
            if writer.write_all(send).is_err() {
                return;
            }
            if is_quit {
                theirs.store(true, Ordering::Relaxed);
                return;
            }
        }
    });
    let result = until_end(args, &mut running, &quit);
    drop(raw);
    eprintln!();
    result
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

/// The user's terminal in raw mode, until dropped. Does nothing where the input is no terminal.
struct RawTerminal {
    is_raw: bool,
}

impl RawTerminal {
    fn enter() -> Result<Self> {
        let is_raw = std::io::stdin().is_terminal();
        if is_raw {
            crossterm::terminal::enable_raw_mode()
                .context("the terminal cannot be put into raw mode")?;
        }
        Ok(Self { is_raw })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if self.is_raw {
            let _ = crossterm::terminal::disable_raw_mode();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ctrl_bracket_is_the_machines_and_two_quit() {
        let begun = Instant::now();
        let mut key = QuitKey::default();
        assert_eq!(key.typed(b"ls\x1d", begun), (3, false));
        assert_eq!(key.typed(b"\x1d", begun + 3 * AGAIN), (1, false));
        assert_eq!(
            key.typed(b"a\x1db", begun + 3 * AGAIN + AGAIN / 2),
            (1, true)
        );
        assert_eq!(QuitKey::default().typed(b"\x1d\x1d", begun), (1, true));
    }
}
