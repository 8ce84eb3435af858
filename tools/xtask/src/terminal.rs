//! The user's terminal as dom0's console.

use std::io::{IsTerminal, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::Running;

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

/// Connects the user's terminal to the console while `until_end` waits, which is told by a flag when the user quits.
///
/// # Errors
/// Those of `until_end`; or the terminal cannot be set up.
pub(crate) fn bridge(
    running: &mut Running,
    until_end: impl FnOnce(&mut Running, &AtomicBool) -> Result<()>,
) -> Result<()> {
    if std::io::stdin().is_terminal() {
        eprintln!(
            "  Ctrl-] twice quits; Ctrl-a three times switches the input to the hypervisor and back\r"
        );
    }
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
    let result = until_end(running, &quit);
    drop(raw);
    eprintln!();
    result
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
