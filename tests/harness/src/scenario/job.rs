//! Running one: from a machine that can be started to verdicts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::exits::{ask_for_exits, judge_exit_rate};
use crate::console::Seen;
use crate::machine::{Firmware, Machine};
use crate::qmp;
use crate::running::Running;
use crate::verdict::{self, TestResult, Verdict};

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
    /// Its name: the scenario's, and the machine's where there are several.
    pub name: String,
    /// The machine.
    pub machine: Machine,
    /// What it must show.
    pub goal: Goal,
    /// When it has failed, in time of the machine's own: see [`Clock`](crate::clock::Clock).
    pub timeout: Duration,
    /// How long it may print nothing, in the same time.
    pub silence: Duration,
    /// See [`exits_per_second_below`](super::Scenario::exits_per_second_below).
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
pub(super) const SWITCH_INPUT: &[u8] = b"\x01\x01\x01";

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

pub(super) fn fault(name: &str, result: TestResult, text: String) -> Verdict {
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
    let limit = running.limit(job.timeout, job.silence);
    let mut rates = Vec::new();
    let problem = loop {
        let mut texts = vec![END, COUNT_EXITS];
        texts.extend(FATAL);
        match running.console.wait_for(&texts, limit) {
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
    let limit = running.limit(job.timeout, job.silence);
    let mut texts = vec![verdict::DONE];
    texts.extend(FATAL);
    let seen = running.console.wait_for(&texts, limit);
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
    let limit = running.limit(job.timeout, job.silence);
    let Some(first) = words.first() else {
        return fault(
            &job.name,
            TestResult::Error,
            "no words to look for".to_owned(),
        );
    };
    loop {
        match running.console.wait_for(&[first, HALTED], limit) {
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
                    return match missing_on_screen(job, words) {
                        Ok(None) => fault(&job.name, TestResult::Success, line),
                        Ok(Some(screen)) => {
                            let text = format!("the screen has no {words:?}: {screen}");
                            fault(&job.name, TestResult::Failure, text)
                        }
                        Err(error) => fault(&job.name, TestResult::Error, format!("{error:#}")),
                    };
                }
            }
            other => {
                let text = format!("no line with {words:?}: {}", why(running, other));
                return fault(&job.name, TestResult::Failure, text);
            }
        }
    }
}

/// Looks for the words on the VGA text screen, where the emulator shows it: QEMU with a BIOS. Returns the screen where
/// they are not there.
fn missing_on_screen(job: &Job, words: &[String]) -> Result<Option<String>> {
    let model = &job.machine.model;
    if !model.is_qemu() || model.firmware == Firmware::Uefi {
        return Ok(None);
    }
    let screen = qmp::screen_text(&job.machine.work)?;
    let is_there = words.iter().all(|word| screen.contains(word.as_str()));
    Ok((!is_there).then_some(screen))
}

fn judge_session(
    job: &Job,
    steps: &[(String, String)],
    goes_on: bool,
    running: &mut Running,
) -> Verdict {
    let limit = running.limit(job.timeout, job.silence);
    for (text, answer) in steps {
        let mut texts = vec![text.as_str()];
        texts.extend(FATAL);
        // Where there is nothing to wait for, the answer follows the one before.
        if !text.is_empty() {
            match running.console.wait_for(&texts, limit) {
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
    } else if running.wait_for_end(limit.within(job.silence)) {
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
        let pause = running.console.clock().after(Duration::from_secs(2));
        let _ = running.console.wait_for(&["\u{0}"], pause);
    }
}
