//! Measures clocks and fetches files from inside a Linux guest, for scenarios that a shell is too slow, too coarse or
//! (the static busybox's wget, which crashes in the C library's name service) not able for.
//!
//! The real-time clock is the yardstick: it is a device of its own, so a guest whose time runs wrong cannot agree
//! with it by being wrong twice. It counts whole seconds only, so measuring begins and ends where the second changes.

mod host;
mod session;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The kernel's view of the CMOS clock: reads the device each time.
const RTC: &str = "/sys/class/rtc/rtc0/time";

/// How often the monotonic clock is read.
const READS: u32 = 1_000_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["sleep", tolerance] => milliseconds(tolerance).and_then(sleep_ten),
        ["monotonic"] => monotonic(),
        ["rtc", tolerance] => milliseconds(tolerance).and_then(against_rtc),
        ["fetch", server, file] => fetch(server, file),
        ["free-pages"] => host::free_pages(),
        ["ticks", runs, command @ ..] => ticks(runs, command),
        ["session", seconds, transcript, rest @ ..] => session::run(seconds, transcript, rest),
        _ => Err(
            "usage: probe sleep MS|monotonic|rtc MS|fetch ADDRESS:PORT FILE|free-pages|ticks RUNS COMMAND…|\
             session SECONDS TRANSCRIPT [WAIT SEND]… -- COMMAND…"
                .to_owned(),
        ),
    };
    match result {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            println!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// Cycles of the emulated CPU in a microsecond: one instruction each.
const TICKS_PER_US: u128 = 50;

/// Runs a command some times and returns the median of what it took, in ticks. What it prints goes nowhere.
fn ticks(runs: &str, command: &[&str]) -> Result<String, String> {
    let runs: u32 = runs
        .parse()
        .map_err(|_| format!("{runs} is no number of runs"))?;
    let (program, args) = command.split_first().ok_or("ticks of which command?")?;
    let mut took = Vec::new();
    for _ in 0..runs {
        let begun = Instant::now();
        let status = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .map_err(|e| format!("{program}: {e}"))?;
        took.push(begun.elapsed());
        if !status.success() {
            return Err(format!("{program} ended with {status}"));
        }
    }
    took.sort_unstable();
    let median = took.get(took.len() / 2).ok_or("no run, no figure")?;
    Ok((median.as_nanos() * TICKS_PER_US / 1000).to_string())
}

/// Reads what clocks may differ by over ten seconds.
fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text
        .parse()
        .map_err(|_| format!("{text} is no number of milliseconds"))?;
    Ok(Duration::from_millis(number))
}

/// Sleeps ten seconds and compares them with the monotonic clock.
fn sleep_ten(tolerance: Duration) -> Result<String, String> {
    let asked = Duration::from_secs(10);
    let begun = Instant::now();
    thread::sleep(asked);
    within("ten seconds of sleep", begun.elapsed(), asked, tolerance)
}

/// Compares ten seconds of the real-time clock with the monotonic clock.
fn against_rtc(tolerance: Duration) -> Result<String, String> {
    let begun = next_second()?;
    let mut ended = begun;
    for _ in 0..10 {
        // Most of each second is slept through; only its end is watched.
        thread::sleep(Duration::from_millis(900));
        ended = next_second()?;
    }
    within(
        "ten seconds of the RTC",
        ended.duration_since(begun),
        Duration::from_secs(10),
        tolerance,
    )
}

/// Waits for the RTC's second to change and says when it did.
fn next_second() -> Result<Instant, String> {
    let read = || fs::read_to_string(RTC).map_err(|e| format!("{RTC}: {e}"));
    let first = read()?;
    let patience = Instant::now();
    while read()? == first {
        if patience.elapsed() > Duration::from_secs(5) {
            return Err("the RTC stands still".to_owned());
        }
    }
    Ok(Instant::now())
}

fn within(
    what: &str,
    measured: Duration,
    expected: Duration,
    tolerance: Duration,
) -> Result<String, String> {
    let text = format!("{what} took {:.6} s", measured.as_secs_f64());
    if measured.abs_diff(expected) <= tolerance {
        Ok(text)
    } else {
        Err(text)
    }
}

/// Reads the monotonic clock a million times; each reading must be at or after the one before.
fn monotonic() -> Result<String, String> {
    let begun = Instant::now();
    let mut last = begun;
    for i in 0..READS {
        let now = Instant::now();
        if now.checked_duration_since(last).is_none() {
            return Err(format!(
                "reading {i} went back by {} ns",
                last.duration_since(now).as_nanos()
            ));
        }
        last = now;
    }
    let each = begun.elapsed().as_nanos() / u128::from(READS);
    Ok(format!("{READS} readings never went back, {each} ns each"))
}

/// Fetches what an HTTP server has into `file`.
fn fetch(server: &str, file: &str) -> Result<String, String> {
    let io = |e: std::io::Error| format!("{server}: {e}");
    let mut stream = TcpStream::connect(server).map_err(io)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .map_err(io)?;
    write!(stream, "GET /file HTTP/1.0\r\n\r\n").map_err(io)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    // The headers end in an empty line.
    while reader.read_line(&mut line).map_err(io)? > 2 {
        line.clear();
    }
    let mut out = fs::File::create(file).map_err(io)?;
    let size = std::io::copy(&mut reader, &mut out).map_err(io)?;
    Ok(format!("{size} bytes"))
}
