//! QEMU's screen, read through its machine protocol (QMP): what a user without a serial cable sees.
//!
//! The text screen is memory of the machine; QEMU is asked to write that memory to a file. Source: QEMU, "QMP
//! Reference Manual", `pmemsave`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const SCREEN: u64 = 0xb_8000;
/// 80 columns and 25 rows of a character and its colours.
const SCREEN_BYTES: u64 = 80 * 25 * 2;

/// Returns where QEMU listens for a machine with this directory of its own.
#[must_use]
pub fn socket(work: &Path) -> PathBuf {
    work.join("qmp")
}

/// Returns the text on the screen, row after row without line ends: a long line goes on in the next row.
///
/// # Errors
/// QEMU does not answer, or refuses.
pub fn screen_text(work: &Path) -> Result<String> {
    let stream =
        UnixStream::connect(socket(work)).context("QEMU's machine protocol does not answer")?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut greeting = String::new();
    answers.read_line(&mut greeting)?;
    execute(&stream, &mut answers, r#"{"execute":"qmp_capabilities"}"#)?;
    let saved = work.join("screen");
    let command = format!(
        r#"{{"execute":"pmemsave","arguments":{{"val":{SCREEN},"size":{SCREEN_BYTES},"filename":"{}"}}}}"#,
        saved.display()
    );
    execute(&stream, &mut answers, &command)?;
    let cells = fs::read(&saved).context("QEMU did not write the screen")?;
    Ok(text(&cells))
}

fn execute(mut stream: &UnixStream, answers: &mut impl BufRead, command: &str) -> Result<()> {
    writeln!(stream, "{command}")?;
    loop {
        let mut line = String::new();
        if answers.read_line(&mut line)? == 0 {
            bail!("QEMU ended");
        }
        if line.contains("\"error\"") {
            bail!("QEMU refuses {command}: {line}");
        }
        // events come in between
        if line.contains("\"return\"") {
            return Ok(());
        }
    }
}

fn text(cells: &[u8]) -> String {
    cells
        .iter()
        .step_by(2)
        .map(|&byte| char::from(byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_every_second_byte() {
        assert_eq!(text(b"H\x07i\x07 \x07"), "Hi ");
    }
}
