//! Running other programs: a spinner while one works, its output only when it fails.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// Shows that a step is under way; prints what it took when it is done.
pub(crate) struct Step {
    bar: ProgressBar,
    what: String,
    begun: Instant,
}

impl Step {
    /// Starts showing `what`.
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_message(what.clone());
        bar.enable_steady_tick(Duration::from_millis(200));
        if bar.is_hidden() {
            eprintln!("  {what} …");
        }
        Self {
            bar,
            what,
            begun: Instant::now(),
        }
    }

    /// Ends the step and prints its time.
    pub(crate) fn done(self) {
        self.bar.finish_and_clear();
        eprintln!(
            "  {} ({:.1} s)",
            self.what,
            self.begun.elapsed().as_secs_f32()
        );
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Runs `command` to its end and returns what it printed.
///
/// # Errors
/// It could not be started, or ended with a code other than 0: the error carries the last lines it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let out: Output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        let all = format!("{stdout}{stderr}");
        let lines: Vec<&str> = all.lines().collect();
        let tail = lines[lines.len().saturating_sub(30)..].join("\n");
        bail!("`{shown}` failed ({}):\n{tail}", out.status);
    }
    Ok(stdout)
}

/// Runs `command` under a spinner that says `what`.
///
/// # Errors
/// As [`output`].
pub(crate) fn step(what: &str, command: &mut Command) -> Result<String> {
    let step = Step::start(what);
    let out = output(command)?;
    step.done();
    Ok(out)
}

/// Runs `command` with our own input and output.
///
/// # Errors
/// It could not be started, or ended with a code other than 0.
pub(crate) fn passthrough(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Says whether `program` can be found in `PATH`.
pub(crate) fn has(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else {
        return false;
    };
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Writes a command as a user would type it.
pub(crate) fn show(command: &Command) -> String {
    let mut words = vec![command.get_program()];
    words.extend(command.get_args());
    let words: Vec<String> = words.into_iter().map(quote).collect();
    words.join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.contains([' ', '$', '"', '\'', '(', ';']) {
        format!("'{word}'")
    } else {
        word.into_owned()
    }
}

/// Copies `from` to `to` unless `to` already has the same bytes, and makes `to`'s directory.
///
/// # Errors
/// Reading or writing failed.
pub(crate) fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write_if_changed(to, &bytes)
}

/// Writes `bytes` to `to` unless it has them already, and makes `to`'s directory.
///
/// # Errors
/// Writing failed.
pub(crate) fn write_if_changed(to: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    std::fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}
