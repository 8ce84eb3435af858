//! `cargo xtask test`: host tests, guest test kernels, Linux scenarios; ends in one line `N passed, N failed`.
//!
//! A machine's tests are over with its verdicts, so its emulator is ended then; two run at a time, because each uses
//! one CPU. The console of each is kept in `target/hematite/logs`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use harness::scenario::{self, Job, Machines, Outcome, Scenario, Toolstack};
use harness::verdict::TestResult;
use harness::{parallel, server};

use crate::jobs::{self, Artefacts, Built, Run};
use crate::{build, differential, paths, setup};

/// Which tests, and how.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// Only tests whose name contains this
    #[arg(long)]
    pub(crate) filter: Option<String>,
    /// Print the names of the machine tests and what each shows, and run nothing
    #[arg(long)]
    pub(crate) list: bool,
    /// Only the tests that need no emulated machine
    #[arg(long)]
    pub(crate) host_only: bool,
    /// Only the tests on emulated machines
    #[arg(long, conflicts_with = "host_only")]
    pub(crate) guest_only: bool,
    /// Machines at a time
    #[arg(long, default_value_t = 2)]
    pub(crate) machines: usize,
    /// Multiplies every time limit (they count the emulator's own CPU time), for a slow host
    #[arg(long, default_value_t = 1)]
    pub(crate) patience: u32,
    /// Run the Linux scenarios without the hypervisor, to check the scripts themselves
    #[arg(long, hide = true)]
    pub(crate) bare: bool,
    #[command(flatten)]
    pub(crate) build: build::Args,
}

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs what `args` asks for.
///
/// # Errors
/// A test failed, or one could not be run.
pub(crate) fn run(args: &Args) -> Result<()> {
    let runs = runs()?;
    if args.list {
        list(&runs);
        return Ok(());
    }
    setup::for_running()?;
    let mut count = Count::default();
    if !args.guest_only && !args.bare {
        count.add(host_tests(args.filter.as_deref())?);
        if args
            .filter
            .as_deref()
            .is_none_or(|filter| filter.contains("race"))
        {
            count.add(races()?);
        }
        count.add(xl_files(args.filter.as_deref()));
    }
    if !args.host_only {
        count.add(machine_tests(args, runs)?);
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    if count.failed > 0 {
        // The line above is the last one, so the failure has no text of its own.
        std::process::exit(1);
    }
    Ok(())
}

/// Test kernels that are started by a dom0 and mean nothing in its place.
const GUESTS_ONLY: &[&str] = &["domu"];

/// Reads the scenarios, and adds one for each test kernel that has none of its own.
fn scenarios() -> Result<Vec<Scenario>> {
    let dir = paths::root().join("tests/scenarios");
    let mut scenarios = Vec::new();
    for file in [
        "dom0.toml",
        "kernels.toml",
        "seam.toml",
        "refusals.toml",
        "guests.toml",
    ] {
        let path = dir.join(file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        scenarios.extend(scenario::parse(&text).with_context(|| format!("in {file}"))?);
    }
    let described: BTreeSet<String> = scenarios.iter().filter_map(|s| s.image.clone()).collect();
    for name in kernel_names()? {
        if !described.contains(&name) && !GUESTS_ONLY.contains(&name.as_str()) {
            scenarios.push(Scenario::of_kernel(&name));
        }
    }
    Ok(scenarios)
}

/// Returns all runs of all scenarios.
fn runs() -> Result<Vec<Run>> {
    let file = paths::root().join("tests/scenarios/machines.toml");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let machines = Machines::parse(&text)?;
    let mut runs = Vec::new();
    for scenario in scenarios()? {
        runs.extend(jobs::runs(&scenario, &machines)?);
    }
    Ok(runs)
}

/// Asks cargo for the test kernels' names.
fn kernel_names() -> Result<Vec<String>> {
    let mut command = Command::new(paths::cargo());
    command
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(paths::root());
    let metadata: serde_json::Value = serde_json::from_str(&crate::shell::output(&mut command)?)?;
    let mut names = Vec::new();
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has packages")?;
    for package in packages.iter().filter(|p| p["name"] == "kernels") {
        for target in package["targets"].as_array().into_iter().flatten() {
            let is_bin = target["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|k| k == "bin"));
            if let (true, Some(name)) = (is_bin, target["name"].as_str()) {
                names.push(name.to_owned());
            }
        }
    }
    Ok(names)
}

fn list(runs: &[Run]) {
    println!(
        "{:42} cargo test of the crates that run on the host",
        "host"
    );
    println!("{:42} {}", differential::NAME, differential::ABOUT);
    for Run { name, scenario, .. } in runs {
        println!("{name:42} {}", scenario.about);
    }
}

/// Runs cargo's tests and counts them from its output, which is passed on.
fn host_tests(filter: Option<&str>) -> Result<Count> {
    println!("host tests");
    let mut tests = Command::new(paths::cargo());
    tests.args(["test", "--no-fail-fast"]).args(filter);
    run_tests(&mut tests)
}

/// The races between CPUs of the core, under the model checker: a build of its own, since it is in place of each atomic
/// and lock.
fn races() -> Result<Count> {
    println!("races under the model checker");
    let mut tests = Command::new(paths::cargo());
    tests
        .args(["test", "--package", "hypervisor", "--lib", "tests::races"])
        .env("RUSTFLAGS", "--cfg shuttle")
        .env("CARGO_TARGET_DIR", paths::root().join("target/shuttle"));
    run_tests(&mut tests)
}

fn run_tests(tests: &mut Command) -> Result<Count> {
    let mut child = tests
        .current_dir(paths::root())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo's output is a pipe")?;
    let mut count = Count::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(more) = test_result(&line) {
            count.add(more);
        }
        // The names of what passed are noise here; `cargo test` has them.
        if !line.ends_with("... ok") && !line.is_empty() {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    if !status.success() && count.failed == 0 {
        // It did not compile, or a test program died before its summary.
        count.failed += 1;
    }
    Ok(count)
}

/// Reads configurations by our xl and by Xen's, if that is asked for.
fn xl_files(filter: Option<&str>) -> Count {
    if filter.is_some_and(|filter| !differential::NAME.contains(filter)) {
        return Count::default();
    }
    let (passed, failed) = match differential::run() {
        Ok(counts) => counts,
        Err(error) => (0, vec![format!("cannot be compared: {error:#}")]),
    };
    for what in &failed {
        println!("FAIL  {} {what}", differential::NAME);
    }
    if failed.is_empty() {
        println!("pass  {}: {passed} files", differential::NAME);
    }
    Count {
        passed,
        failed: failed.len(),
    }
}

/// Reads `test result: ok. 3 passed; 0 failed; …`.
fn test_result(line: &str) -> Option<Count> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let (before, _) = rest.split_once(word)?;
        before.trim_end().rsplit(' ').next()?.parse().ok()
    };
    Some(Count {
        passed: number(" passed")?,
        failed: number(" failed")?,
    })
}

/// Builds what the wanted scenarios need and runs them.
fn machine_tests(args: &Args, runs: Vec<Run>) -> Result<Count> {
    let mut wanted = runs;
    wanted.retain(|run| {
        let filter = args.filter.as_ref();
        let is_named = filter.is_none_or(|filter| run.name.contains(filter.as_str()));
        is_named && (!args.bare || can_be_bare(&run.scenario))
    });
    if wanted.is_empty() {
        return Ok(Count::default());
    }
    println!(
        "machine tests: {} machines, {} at a time",
        wanted.len(),
        args.machines
    );
    fs::create_dir_all(paths::logs())?;
    let artefacts = artefacts(args, &wanted)?;
    let mut jobs = Vec::new();
    for run in &wanted {
        let job = jobs::prepare(run, &artefacts)
            .with_context(|| format!("scenario {} cannot be prepared", run.name))?;
        jobs.push(Job {
            timeout: job.timeout * args.patience,
            silence: job.silence * args.patience,
            ..job
        });
    }
    let mut count = Count::default();
    parallel::run(
        jobs,
        args.machines,
        |job| run_and_tidy(&job),
        |outcome| count.add(report(&outcome)),
    );
    Ok(count)
}

/// Says whether a scenario means something without the hypervisor.
fn can_be_bare(scenario: &Scenario) -> bool {
    (!scenario.scripts.is_empty() || !scenario.session.is_empty())
        && scenario.tools == Toolstack::None
}

fn artefacts(args: &Args, wanted: &[Run]) -> Result<Artefacts> {
    let any = |test: fn(&Scenario) -> bool| wanted.iter().any(|run| test(&run.scenario));
    if !args.bare && any(|s| !s.bare_metal) {
        build::hypervisor(&args.build)?;
    }
    let mut built = Built {
        probe: build::probe()?,
        ..Built::default()
    };
    if any(|s| s.image.is_some() && !s.bare_metal || s.tools != Toolstack::None) {
        built.test_kernels = build::kernels(&args.build)?;
    }
    if any(|s| s.bare_metal) {
        build::seam(&args.build)?;
    }
    if any(|s| s.tools == Toolstack::Ours) {
        built.programs = build::tools()?.programs;
    }
    let served = server::serve(1 << 20)?;
    Artefacts::new(args.bare, built, served)
}

/// Runs a job; the files only it needed go when it passed.
fn run_and_tidy(job: &Job) -> Outcome {
    let outcome = scenario::run(job);
    if outcome.is_good() {
        remove(&job.machine.iso);
        let _ = fs::remove_dir_all(&job.machine.work);
    }
    outcome
}

fn remove(file: &PathBuf) {
    let _ = fs::remove_file(file);
}

/// Prints how a machine's tests ended and counts them; what was skipped counts as neither.
fn report(outcome: &Outcome) -> Count {
    let mut count = Count::default();
    for verdict in &outcome.verdicts {
        let word = match verdict.result {
            TestResult::Success => {
                count.passed += 1;
                "pass"
            }
            TestResult::Skip => "skip",
            TestResult::Error => {
                count.failed += 1;
                "ERROR"
            }
            TestResult::Failure => {
                count.failed += 1;
                "FAIL"
            }
        };
        let name = if verdict.name == outcome.name {
            outcome.name.clone()
        } else {
            format!("{} {}", outcome.name, verdict.name)
        };
        println!("{word:5} {name}: {}", verdict.text);
    }
    println!(
        "      {} took {:.1} s",
        outcome.name,
        outcome.took.as_secs_f32()
    );
    if !outcome.is_good() {
        println!("      the last lines of its console:");
        for line in outcome.tail.lines() {
            println!("      | {line}");
        }
        println!("      all of it: {}", outcome.log.display());
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_cargos_summary() {
        let line = "test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(
            test_result(line),
            Some(Count {
                passed: 12,
                failed: 1
            })
        );
        assert_eq!(test_result("test a::b ... ok"), None);
    }
}
