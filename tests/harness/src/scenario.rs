//! What a test on a machine is: its description (`tests/scenarios/scenarios.toml`) and how one is run.
//!
//! Three kinds. A Linux scenario boots dom0 and runs shell scripts in it; each prints a verdict. A kernel scenario
//! boots a test kernel in dom0's place. A refusal passes when one line of the console has all the words it must have.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::console::Seen;
use crate::machine::{BOCHS_CPUS, DEFAULT_BOCHS_CPU, Machine};
use crate::running::Running;
use crate::verdict::{self, TestResult, Verdict};

/// One entry of the scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// Its name, unique.
    pub name: String,
    /// What it shows, for `--list`.
    pub about: String,
    /// Scripts of `tests/scenarios/guest` to run in dom0, in order. Each prints one verdict under its own name.
    #[serde(default)]
    pub scripts: Vec<String>,
    /// A test kernel (`tests/kernels`) instead of Linux.
    #[serde(default)]
    pub image: Option<String>,
    /// What to wait for and what to type then, in turn; afterwards the machine must end by itself.
    #[serde(default)]
    pub session: Vec<(String, String)>,
    /// Whether the machine goes on after the session.
    #[serde(default)]
    pub goes_on: bool,
    /// Words that one line of the console must have, for a refusal.
    #[serde(default)]
    pub expect: Vec<String>,
    /// Which emulator and firmware.
    #[serde(default)]
    pub platform: Platform,
    /// CPU models; the word `all` stands for each Bochs model that must work.
    #[serde(default)]
    pub cpus: Vec<String>,
    /// What boots in dom0's place.
    #[serde(default)]
    pub kernel: DomZero,
    /// Options of the hypervisor.
    #[serde(default)]
    pub options: String,
    /// Words appended to dom0's command line.
    #[serde(default)]
    pub append: String,
    /// Pads dom0's command line to this many bytes.
    #[serde(default)]
    pub pad_command_line_to: usize,
    /// RAM in MiB.
    #[serde(default = "default_memory")]
    pub memory: u32,
    /// Whether there is an IDE disk with an empty ext4 file system.
    #[serde(default)]
    pub disk: bool,
    /// Whether there is a network card on the emulator's user network, and a file to fetch.
    #[serde(default)]
    pub network: bool,
    /// Seconds on an unloaded machine after which it has failed.
    #[serde(default = "default_timeout")]
    pub timeout_s: u64,
    /// Exits a second that must not be reached between the dumps the script asks for.
    #[serde(default)]
    pub exits_per_second_below: Option<u64>,
}

/// Emulator and firmware of a scenario.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// Bochs and its BIOS.
    #[default]
    Bochs,
    /// QEMU without VMX, BIOS.
    Qemu,
    /// QEMU without VMX, UEFI.
    QemuUefi,
}

/// What a scenario boots as dom0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DomZero {
    /// Debian 12's generic kernel.
    #[default]
    Generic,
    /// The same unpacked by the harness: it boots alike, in less than half the time.
    Unpacked,
    /// Debian 12's cloud kernel.
    Cloud,
    /// Debian's backported 6.12.
    Backports,
    /// No module at all.
    Missing,
    /// The first MiB of the generic kernel.
    Truncated,
    /// The generic kernel with damage in the middle of its payload.
    Corrupt,
    /// A file that is no kernel.
    NotAKernel,
    /// An ELF file without the PVH note.
    NoPvhNote,
}

const fn default_memory() -> u32 {
    2048
}

const fn default_timeout() -> u64 {
    180
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scenario: Vec<Scenario>,
}

/// Reads the scenario file's text.
///
/// # Errors
/// Not TOML, or fields that no scenario has; the message has the line.
pub fn parse(text: &str) -> Result<Vec<Scenario>> {
    let file: File = toml::from_str(text).context("the scenario file is wrong")?;
    Ok(file.scenario)
}

impl Scenario {
    /// Describes the run of a test kernel that has no entry of its own: on the default CPU, and on the oldest one, where
    /// most optional features are missing.
    #[must_use]
    pub fn of_kernel(image: &str) -> Self {
        Self {
            name: format!("kernel-{image}"),
            about: format!("the tests of the guest test kernel {image}"),
            scripts: Vec::new(),
            image: Some(image.to_owned()),
            session: Vec::new(),
            goes_on: false,
            expect: Vec::new(),
            platform: Platform::Bochs,
            cpus: vec![DEFAULT_BOCHS_CPU.to_owned(), BOCHS_CPUS[0].to_owned()],
            kernel: DomZero::Missing,
            options: String::new(),
            append: String::new(),
            pad_command_line_to: 0,
            memory: default_memory(),
            disk: false,
            network: false,
            timeout_s: default_timeout(),
            exits_per_second_below: None,
        }
    }

    /// Returns the CPU models to run on, one run each.
    #[must_use]
    pub fn models(&self) -> Vec<String> {
        if self.cpus.is_empty() {
            let model = if self.platform == Platform::Bochs {
                DEFAULT_BOCHS_CPU
            } else {
                "max"
            };
            return vec![model.to_owned()];
        }
        let expand = |cpu: &String| match cpu.as_str() {
            "all" => BOCHS_CPUS.iter().map(|&m| m.to_owned()).collect(),
            _ => vec![cpu.clone()],
        };
        self.cpus.iter().flat_map(expand).collect()
    }
}

/// What a machine must show.
#[derive(Clone, Debug)]
pub enum Goal {
    /// A verdict of each of these scripts.
    Scripts(Vec<String>),
    /// The verdicts of a test kernel, and its last line.
    Kernel,
    /// One line with all these words.
    Line(Vec<String>),
    /// Each first text in turn, answered with the second; then the machine's end, unless it may go on.
    Session {
        /// Text and answer.
        steps: Vec<(String, String)>,
        /// Whether the machine may go on.
        goes_on: bool,
    },
}

/// A run to do.
pub struct Job {
    /// Its name: the scenario's, and the CPU model where there are several.
    pub name: String,
    /// The machine.
    pub machine: Machine,
    /// What it must show.
    pub goal: Goal,
    /// When it has failed.
    pub timeout: Duration,
    /// How long it may print nothing.
    pub silence: Duration,
    /// See [`Scenario::exits_per_second_below`].
    pub exits_per_second_below: Option<u64>,
    /// The console's log.
    pub log: PathBuf,
}

/// How a run ended.
pub struct Outcome {
    /// The run's name.
    pub name: String,
    /// One verdict a test; at least one.
    pub verdicts: Vec<Verdict>,
    /// The last lines of the console.
    pub tail: String,
    /// All of it.
    pub log: PathBuf,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Says whether every test passed or was skipped.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let good = |v: &Verdict| matches!(v.result, TestResult::Success | TestResult::Skip);
        self.verdicts.iter().all(good)
    }
}

/// Lines after which nothing good can come.
const FATAL: [&str; 6] = [
    "Kernel panic - not syncing",
    "fatal: ",
    "d0 crashed",
    "cannot run:",
    "halted",
    "grub>",
];

/// What the hypervisor prints last of all.
const HALTED: &str = "halted";

/// The line that ends a Linux scenario.
const END: &str = "SCENARIO END";

/// A script prints this and waits for a newline: the exits are counted from here to the next such line.
const COUNT_EXITS: &str = "COUNT EXITS";

/// Three of these switch the console's input to the hypervisor, three more back.
const SWITCH_INPUT: &[u8] = b"\x01\x01\x01";

/// How many lines of the console are shown of a failed run.
const TAIL_LINES: usize = 40;

/// Runs one job to its verdicts. An emulator that does not start is a verdict too.
#[must_use]
pub fn run(job: &Job) -> Outcome {
    let begun = Instant::now();
    let outcome = |verdicts, tail| Outcome {
        name: job.name.clone(),
        verdicts,
        tail,
        log: job.log.clone(),
        took: begun.elapsed(),
    };
    match Running::start(&job.machine, &job.log, |_| {}) {
        Ok(mut running) => {
            let verdicts = judge(job, &mut running);
            outcome(verdicts, running.console.tail(TAIL_LINES))
        }
        Err(error) => outcome(
            vec![fault(&job.name, TestResult::Error, format!("{error:#}"))],
            String::new(),
        ),
    }
}

fn fault(name: &str, result: TestResult, text: String) -> Verdict {
    Verdict {
        name: name.to_owned(),
        result,
        text,
    }
}

fn judge(job: &Job, running: &mut Running) -> Vec<Verdict> {
    match &job.goal {
        Goal::Scripts(scripts) => judge_scripts(job, scripts, running),
        Goal::Kernel => judge_kernel(job, running),
        Goal::Line(words) => vec![judge_line(job, words, running)],
        Goal::Session { steps, goes_on } => vec![judge_session(job, steps, *goes_on, running)],
    }
}

fn judge_scripts(job: &Job, scripts: &[String], running: &mut Running) -> Vec<Verdict> {
    let until = Instant::now() + job.timeout;
    let mut rates = Vec::new();
    let problem = loop {
        let mut texts = vec![END, COUNT_EXITS];
        texts.extend(FATAL);
        match running.console.wait_for(&texts, until, job.silence) {
            Seen::Found(line) if line.contains(END) => break None,
            Seen::Found(line) if line.contains(COUNT_EXITS) => match ask_for_exits(running) {
                Some(sample) => rates.push(sample),
                None => break Some("the hypervisor does not answer the debug key x".to_owned()),
            },
            other => break Some(why(running, other)),
        }
    };
    let said = verdict::of_linux(&running.console.text());
    let by_name: BTreeMap<&str, &Verdict> = said.iter().map(|v| (v.name.as_str(), v)).collect();
    let mut verdicts: Vec<Verdict> = scripts
        .iter()
        .map(|script| match by_name.get(script.as_str()) {
            Some(&verdict) => verdict.clone(),
            None => {
                let text = problem
                    .clone()
                    .unwrap_or_else(|| "it printed no verdict".to_owned());
                fault(script, TestResult::Failure, text)
            }
        })
        .collect();
    if let (Some(limit), None) = (job.exits_per_second_below, &problem) {
        verdicts.push(judge_exit_rate(&rates, limit));
    }
    verdicts
}

fn judge_kernel(job: &Job, running: &mut Running) -> Vec<Verdict> {
    let until = Instant::now() + job.timeout;
    let mut texts = vec![verdict::DONE];
    texts.extend(FATAL);
    let seen = running.console.wait_for(&texts, until, job.silence);
    let mut verdicts = verdict::of_kernel(&running.console.text());
    match seen {
        Seen::Found(line) if line.contains(verdict::DONE) => {
            if verdicts.is_empty() {
                verdicts.push(fault(
                    &job.name,
                    TestResult::Error,
                    "it ran no test".to_owned(),
                ));
            }
        }
        other => {
            let text = format!("it did not finish: {}", why(running, other));
            verdicts.push(fault(&job.name, TestResult::Failure, text));
        }
    }
    verdicts
}

fn judge_line(job: &Job, words: &[String], running: &mut Running) -> Verdict {
    let until = Instant::now() + job.timeout;
    let Some(first) = words.first() else {
        return fault(
            &job.name,
            TestResult::Error,
            "no words to look for".to_owned(),
        );
    };
    loop {
        match running
            .console
            .wait_for(&[first, HALTED], until, job.silence)
        {
            Seen::Found(line) if line.trim() == HALTED => {
                return fault(
                    &job.name,
                    TestResult::Failure,
                    format!("it halted without a line with {words:?}"),
                );
            }
            Seen::Found(_) => {
                let line = running.console.finish_line(Duration::from_secs(2));
                if words.iter().all(|word| line.contains(word.as_str())) {
                    return fault(&job.name, TestResult::Success, line);
                }
            }
            other => {
                let text = format!("no line with {words:?}: {}", why(running, other));
                return fault(&job.name, TestResult::Failure, text);
            }
        }
    }
}

fn judge_session(
    job: &Job,
    steps: &[(String, String)],
    goes_on: bool,
    running: &mut Running,
) -> Verdict {
    let until = Instant::now() + job.timeout;
    for (text, answer) in steps {
        let mut texts = vec![text.as_str()];
        texts.extend(FATAL);
        // Where there is nothing to wait for, the answer follows the one before.
        if !text.is_empty() {
            match running.console.wait_for(&texts, until, job.silence) {
                Seen::Found(line) if !FATAL.iter().any(|fatal| line.contains(fatal)) => {}
                other => {
                    let text = format!("{text:?} did not come: {}", why(running, other));
                    return fault(&job.name, TestResult::Failure, text);
                }
            }
        }
        if running.console.send(answer.as_bytes()).is_err() {
            return fault(
                &job.name,
                TestResult::Failure,
                "the emulator ended".to_owned(),
            );
        }
    }
    if goes_on {
        fault(
            &job.name,
            TestResult::Success,
            format!("{} answers", steps.len()),
        )
    } else if running.wait_for_end(until.min(Instant::now() + job.silence)) {
        fault(
            &job.name,
            TestResult::Success,
            format!("{} answers, then the end", steps.len()),
        )
    } else {
        ask_for_dump(running);
        fault(
            &job.name,
            TestResult::Failure,
            "the machine did not end".to_owned(),
        )
    }
}

/// Says why a wait ended without what it waited for; a silent machine is asked for a dump first.
fn why(running: &mut Running, seen: Seen) -> String {
    match seen {
        Seen::Found(line) => line,
        Seen::TimedOut => "the time was over".to_owned(),
        Seen::Closed => "the emulator ended".to_owned(),
        Seen::Silent => {
            ask_for_dump(running);
            "it went silent".to_owned()
        }
    }
}

/// Asks the hypervisor for its view of domains and registers, so that the log of a hang says where it hangs.
fn ask_for_dump(running: &mut Running) {
    if running.console.send(SWITCH_INPUT).is_err() {
        return;
    }
    for key in [b"q", b"d"] {
        if running.console.send(key).is_err() {
            return;
        }
        let pause = Duration::from_secs(2);
        let _ = running
            .console
            .wait_for(&["\u{0}"], Instant::now() + pause, pause);
    }
}

/// Exits so far and when, in µs of virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ExitSample {
    total: u64,
    time_us: u64,
}

/// Presses the debug key x, reads its summary, and lets the script go on.
fn ask_for_exits(running: &mut Running) -> Option<ExitSample> {
    let until = Instant::now() + Duration::from_secs(20);
    let silence = Duration::from_secs(20);
    running
        .console
        .send(&[SWITCH_INPUT, b"x", SWITCH_INPUT].concat())
        .ok()?;
    let Seen::Found(_) = running.console.wait_for(&["exits total="], until, silence) else {
        return None;
    };
    let sample = exit_sample(&running.console.finish_line(Duration::from_secs(2)))?;
    running.console.send(b"\n").ok()?;
    Some(sample)
}

/// Reads `exits total=N time_us=N`.
fn exit_sample(line: &str) -> Option<ExitSample> {
    let field = |name: &str| {
        let (_, rest) = line.split_once(name)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some(ExitSample {
        total: field("exits total=")?,
        time_us: field("time_us=")?,
    })
}

fn judge_exit_rate(samples: &[ExitSample], limit: u64) -> Verdict {
    let name = "exit-rate";
    let [before, after] = samples else {
        return fault(
            name,
            TestResult::Error,
            format!("{} samples instead of two", samples.len()),
        );
    };
    let exits = after.total.saturating_sub(before.total);
    let us = after.time_us.saturating_sub(before.time_us).max(1);
    let rate = exits.saturating_mul(1_000_000) / us;
    let text = format!("{rate} exits a second ({exits} in {us} us)");
    let result = if rate < limit {
        TestResult::Success
    } else {
        TestResult::Failure
    };
    fault(name, result, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_without_models_runs_on_the_default_one() {
        let text = "[[scenario]]\nname = 'a'\nabout = 'b'\n[[scenario]]\nname = 'c'\nabout = 'd'\ncpus = ['all']\n";
        let scenarios = parse(text).unwrap();
        assert_eq!(scenarios[0].models(), [DEFAULT_BOCHS_CPU]);
        assert_eq!(scenarios[1].models().len(), BOCHS_CPUS.len());
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        assert!(parse("[[scenario]]\nname = 'a'\nabout = 'b'\ntimeout = 3\n").is_err());
    }

    #[test]
    fn the_rate_is_exits_over_virtual_time() {
        let before = exit_sample("(hem) exits total=1000 time_us=2000000").unwrap();
        let after = exit_sample("exits total=3500 time_us=12000000").unwrap();
        assert_eq!(
            judge_exit_rate(&[before, after], 300).result,
            TestResult::Success
        );
        assert_eq!(
            judge_exit_rate(&[before, after], 250).result,
            TestResult::Failure
        );
        assert_eq!(judge_exit_rate(&[before], 300).result, TestResult::Error);
    }
}
