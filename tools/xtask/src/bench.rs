//! `cargo xtask bench`: figures that are the same on every host.
//!
//! Under Bochs one executed instruction is one tick, so ticks are a property of the code. The hypervisor prints a line
//! `boot: WHAT ticks=N` for each step, N counted from the multiboot entry; the kernel's own clock gives the way from
//! its first instruction to init.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::machine::DEFAULT_BOCHS_CPU;
use harness::{Emulator, Machine, Model, Network, Running, Seen, bochs};

use crate::initramfs::Tools;
use crate::{emulators, image, paths, setup};

/// What can be measured.
#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum Bench {
    /// Ticks from the multiboot entry to dom0's first instruction, and to init, and VM exits by reason
    Boot {
        /// CPU model of Bochs
        #[arg(long, default_value = DEFAULT_BOCHS_CPU)]
        cpu: String,
        #[command(flatten)]
        image: image::Args,
    },
}

/// What the kernel prints when it starts init.
const INIT: &str = "Run /init as init process";

/// A boot may take this long, in time of the emulator's own.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Measures, and prints a table.
///
/// # Errors
/// The machine did not come up.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let Bench::Boot { cpu, image } = bench;
    setup::for_running()?;
    let (programs, is_mended) = emulators::programs()?;
    if !is_mended {
        bail!("figures mean something on the Bochs that setup builds only");
    }
    // The figures are about dom0 alone.
    let image = image::Args {
        tools: Tools::None,
        ..image.clone()
    };
    let iso = image::run(&image)?;
    let machine = Machine {
        model: Model::new(Emulator::Bochs, cpu),
        programs,
        memory_mib: 2048,
        iso,
        disk: None,
        network: Network::None,
        work: paths::out().join("bench"),
    };
    std::fs::create_dir_all(paths::logs())?;
    let mut running = Running::start(&machine, &paths::logs().join("bench-boot.log"), |_| {})?;
    let clock = running.console.clock();
    match running.console.wait_for(&[INIT], clock.after(TIMEOUT)) {
        Seen::Found(_) => {}
        other => bail!(
            "dom0 did not reach init: {other:?}; see {}",
            running.console.log().display()
        ),
    }
    let init_line = running.console.finish_line(Duration::from_secs(5));
    // The debug key for exits, after Ctrl-a three times; its last line is the sum.
    running.console.send(b"\x01\x01\x01x")?;
    let limit = clock.after(Duration::from_secs(30));
    let seen = running.console.wait_for(&["exits total="], limit);
    running.console.finish_line(Duration::from_secs(2));
    let text = running.console.text();
    print_boot(&text, &init_line)?;
    if let Seen::Found(_) = seen {
        print_exits(&text);
    }
    Ok(())
}

fn print_boot(text: &str, init_line: &str) -> Result<()> {
    let steps: Vec<(String, u64)> = text.lines().filter_map(boot_step).collect();
    let (_, entered) = steps
        .last()
        .context("the hypervisor printed no `boot: … ticks=` line")?;
    for (what, ticks) in &steps {
        println!("{what:40} {:>10.3} M ticks", millions(*ticks));
    }
    if let Some(us) = kernel_time_us(init_line) {
        let ticks = us.saturating_mul(bochs::IPS / 1_000_000);
        println!(
            "{:40} {:>10.3} M ticks",
            "dom0's kernel to init",
            millions(ticks)
        );
        println!(
            "{:40} {:>10.3} M ticks",
            "all to init",
            millions(entered.saturating_add(ticks))
        );
    }
    Ok(())
}

fn print_exits(text: &str) {
    // The dump is what was printed last, after the line that says where the keys go now, which ends in stars.
    let dump = text.rsplit("***").next().unwrap_or(text);
    for line in dump.lines().filter(|line| !line.is_empty()) {
        println!("{line}");
    }
}

#[expect(clippy::cast_precision_loss, reason = "three decimals are shown")]
fn millions(ticks: u64) -> f64 {
    ticks as f64 / 1e6
}

/// Reads `boot: WHAT ticks=N`, whatever the log puts before it.
fn boot_step(line: &str) -> Option<(String, u64)> {
    let (_, rest) = line.split_once("boot: ")?;
    let (what, number) = rest.split_once(" ticks=")?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    Some((what.trim().to_owned(), digits.parse().ok()?))
}

/// Reads the time of a kernel message, `[    8.298623] …`, in µs.
fn kernel_time_us(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once('[')?;
    let (time, _) = rest.split_once(']')?;
    let (seconds, micros) = time.trim().split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    let micros: u64 = micros.parse().ok()?;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_behind_a_timestamp() {
        assert_eq!(
            boot_step("[ 12 kticks] boot: dom0 entered ticks=1234"),
            Some(("dom0 entered".into(), 1234))
        );
        assert_eq!(boot_step("boot: dom0 entered"), None);
    }

    #[test]
    fn the_kernels_clock_is_read_in_microseconds() {
        assert_eq!(kernel_time_us("[    8.298623] Run /init"), Some(8_298_623));
        assert_eq!(kernel_time_us("no time"), None);
    }
}
