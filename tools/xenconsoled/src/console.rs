//! One guest's console: its ring, its terminal, its log.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::PollFlags;
use xendev::MappedPages;
use xendev::gntdev::GrantMapping;
use xendev::ring::{BadIndices, CONSOLE_INPUT, CONSOLE_OUTPUT};

use crate::backlog::Backlog;
use crate::log::Log;
use crate::options::Overflow;
use crate::rate::Rate;
use crate::terminal::Terminal;

/// The page with the rings, however it was come by.
#[derive(Debug)]
pub(crate) enum Page {
    /// The guest granted it.
    Granted(GrantMapping),
    /// Mapped by its frame, as the hardware domain may.
    Foreign(MappedPages),
}

impl Page {
    fn pages(&self) -> &MappedPages {
        match self {
            Self::Granted(mapping) => mapping.pages(),
            Self::Foreign(pages) => pages,
        }
    }
}

/// A console that is served.
#[derive(Debug)]
pub(crate) struct Console {
    page: Page,
    terminal: Terminal,
    backlog: Backlog,
    overflow: Overflow,
    log: Option<Log>,
    rate: Rate,
    /// The ring had more, or may have, than was taken.
    has_more: bool,
    told_lost: bool,
}

/// What serving a ring has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    /// The guest shall be notified.
    pub(crate) notify: bool,
    /// The port may fire again: everything it told of has been seen.
    pub(crate) is_empty: bool,
}

impl Console {
    /// Starts to serve a ring that may have output already.
    pub(crate) fn new(
        page: Page,
        terminal: Terminal,
        log: Option<Log>,
        (limit, overflow): (usize, Overflow),
        now: Instant,
    ) -> Self {
        Self {
            page,
            terminal,
            backlog: Backlog::new(limit),
            overflow,
            log,
            rate: Rate::new(now),
            has_more: true,
            told_lost: false,
        }
    }

    /// Returns the terminal's path.
    pub(crate) fn tty(&self) -> &str {
        self.terminal.name()
    }

    /// Changes the backlog's limit.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.backlog.set_limit(limit);
    }

    /// Notes that the guest has sent an event.
    pub(crate) fn event(&mut self) {
        self.has_more = true;
    }

    /// Takes another log.
    pub(crate) fn set_log(&mut self, log: Option<Log>) {
        self.log = log;
    }

    /// Returns the log, if there is one.
    pub(crate) fn log_mut(&mut self) -> Option<&mut Log> {
        self.log.as_mut()
    }

    /// Returns how many bytes wait for a visitor, and how many were lost.
    pub(crate) fn waiting(&self) -> (usize, u64) {
        (self.backlog.len(), self.backlog.lost())
    }

    /// Returns how much of the ring may be taken now: what is kept must fit.
    fn room(&self) -> usize {
        match self.overflow {
            Overflow::Discard => usize::MAX,
            Overflow::Keep => self.backlog.room(),
        }
    }

    /// Says when the ring shall be looked at without any event: now, later, or not.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Duration> {
        (self.has_more && self.room() > 0).then(|| self.rate.wait(now).unwrap_or(Duration::ZERO))
    }

    /// Empties the output ring once, if its rate allows it.
    ///
    /// # Errors
    /// The guest has written indices that cannot be: its console is over.
    pub(crate) fn serve_ring(&mut self, now: Instant) -> Result<Served, BadIndices> {
        if !self.has_more || self.room() == 0 || self.rate.wait(now).is_some() {
            return Ok(Served::default());
        }
        let mut bytes = [0; 2048];
        let room = self.room().min(bytes.len());
        let room = bytes.get_mut(..room).unwrap_or_default();
        let count = CONSOLE_OUTPUT.read(self.page.pages(), room)?;
        let bytes = bytes.get(..count).unwrap_or_default();
        self.rate.count(count, now);
        self.keep(bytes);
        self.has_more = count > 0;
        Ok(Served {
            notify: count > 0,
            is_empty: count == 0,
        })
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(log) = &mut self.log
            && let Err(error) = log.write(bytes, SystemTime::now())
        {
            ::log::error!("{}: logging ends: {error}", self.tty());
            self.log = None;
        }
        self.backlog.push(bytes);
        if self.backlog.lost() > 0 && !self.told_lost {
            self.told_lost = true;
            ::log::warn!(
                "{}: nobody reads; the oldest output is being dropped",
                self.tty()
            );
        }
        self.serve_output();
    }

    /// Returns what the terminal is to be asked for.
    pub(crate) fn interest(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        if !self.backlog.is_empty() {
            flags |= PollFlags::OUT;
        }
        if CONSOLE_INPUT
            .writable(self.page.pages())
            .is_ok_and(|room| room > 0)
        {
            flags |= PollFlags::IN;
        }
        flags
    }

    /// Gives the terminal what it takes.
    pub(crate) fn serve_output(&mut self) {
        loop {
            let taken = self.terminal.write(self.backlog.front());
            self.backlog.consume(taken);
            if taken == 0 {
                return;
            }
        }
    }

    /// Passes on what was typed, as much as the ring has room for; says whether the guest shall be notified.
    ///
    /// # Errors
    /// As [`serve_ring`](Self::serve_ring).
    pub(crate) fn serve_input(&mut self) -> Result<bool, BadIndices> {
        let room = CONSOLE_INPUT.writable(self.page.pages())?;
        let mut bytes = [0; 1024];
        let room = bytes.len().min(usize::try_from(room).unwrap_or(0));
        let count = self
            .terminal
            .read(bytes.get_mut(..room).unwrap_or_default());
        let typed = bytes.get(..count).unwrap_or_default();
        CONSOLE_INPUT.write(self.page.pages(), typed)?;
        Ok(count > 0)
    }

    /// Ends the ring, after a last look at it. The terminal stays as long as [`Remains`] says.
    pub(crate) fn close(mut self, now: Instant) -> Remains {
        let mut bytes = [0; 2048];
        if let Ok(count) = CONSOLE_OUTPUT.read(self.page.pages(), &mut bytes) {
            self.keep(bytes.get(..count).unwrap_or_default());
        }
        Remains {
            terminal: self.terminal,
            backlog: self.backlog,
            closed: now,
        }
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

/// A terminal whose guest is gone, kept for a visitor who has not read all of it: closing it would lose the guest's
/// last words.
#[derive(Debug)]
pub(crate) struct Remains {
    terminal: Terminal,
    backlog: Backlog,
    closed: Instant,
}

impl Remains {
    /// How long a visitor is waited for.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// How long a pty may take to pass on what was written, so that it seems read before it is there.
    const SETTLING: Duration = Duration::from_millis(200);

    /// How often it is looked whether all has been read: a pty tells of that by no event.
    pub(crate) const PAUSE: Duration = Duration::from_millis(20);

    /// Passes on more; says whether the terminal can be closed.
    pub(crate) fn are_over(&mut self, now: Instant) -> bool {
        let taken = self.terminal.write(self.backlog.front());
        self.backlog.consume(taken);
        let is_read = self.backlog.is_empty() && !self.terminal.has_unread();
        let passed = now.saturating_duration_since(self.closed);
        (is_read && passed >= Self::SETTLING) || passed >= Self::PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::{Read, Write};
    use std::sync::atomic::Ordering;

    use super::*;

    /// Where `public/io/console.h` has the producer's index of the output.
    const OUT_PROD: usize = 3084;

    fn console() -> (Console, File) {
        let page = Page::Foreign(MappedPages::anonymous(1).unwrap());
        let terminal = Terminal::open().unwrap();
        let visitor = OpenOptions::new()
            .read(true)
            .write(true)
            .open(terminal.name())
            .unwrap();
        let limit = (1 << 20, Overflow::Discard);
        let console = Console::new(page, terminal, None, limit, Instant::now());
        (console, visitor)
    }

    fn print(console: &Console, bytes: &[u8]) {
        let taken = CONSOLE_OUTPUT.write(console.page.pages(), bytes).unwrap();
        assert_eq!(taken, bytes.len());
    }

    #[test]
    fn output_reaches_the_terminal_and_the_guest_is_told_of_room() {
        let (mut console, mut visitor) = console();
        print(&console, b"hello\n");
        let served = console.serve_ring(Instant::now()).unwrap();
        assert_eq!((served.notify, served.is_empty), (true, false));
        let mut got = [0; 6];
        visitor.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello\n");
        // The ring is looked at until it is found empty, so that no event is lost between look and unmask.
        assert_eq!(console.due(Instant::now()), Some(Duration::ZERO));
        assert!(console.serve_ring(Instant::now()).unwrap().is_empty);
        assert_eq!(console.due(Instant::now()), None);
    }

    #[test]
    fn input_waits_for_room_in_the_ring() {
        let (mut console, mut visitor) = console();
        visitor.write_all(&[b'k'; 1500]).unwrap();
        // The terminal passes bytes on in its own time.
        while console.interest().contains(PollFlags::IN) {
            console.serve_input().unwrap();
        }
        assert!(!console.interest().contains(PollFlags::IN));
        assert!(!console.serve_input().unwrap());
        let mut taken = [0; 1024];
        assert_eq!(
            CONSOLE_INPUT.read(console.page.pages(), &mut taken),
            Ok(1024)
        );
        while CONSOLE_INPUT.readable(console.page.pages()) != Ok(476) {
            console.serve_input().unwrap();
        }
    }

    #[test]
    fn impossible_indices_end_the_console() {
        let (mut console, _visitor) = console();
        console
            .page
            .pages()
            .store_u32(OUT_PROD, 5000, Ordering::Relaxed);
        assert!(console.serve_ring(Instant::now()).is_err());
    }

    #[test]
    fn a_flood_that_nobody_reads_keeps_its_end() {
        let (mut console, mut visitor) = console();
        console.set_limit(4096);
        let start = Instant::now();
        for round in 0..200u32 {
            print(&console, &[b'a' + u8::try_from(round % 26).unwrap(); 2048]);
            console.event();
            let served = console.serve_ring(start + round * Duration::from_millis(200));
            assert!(served.unwrap().notify);
        }
        let mut remains = console.close(start);
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        let last = b'a' + 199 % 26;
        while text.last() != Some(&last) || !remains.are_over(start + Remains::SETTLING) {
            let count = visitor.read(&mut piece).unwrap();
            text.extend_from_slice(&piece[..count]);
            remains.are_over(start);
        }
        assert!(text.len() < 200 * 2048);
    }

    #[test]
    fn a_guest_whose_output_is_kept_waits_until_somebody_reads() {
        let (mut console, mut visitor) = console();
        console.overflow = Overflow::Keep;
        console.set_limit(4096);
        let start = Instant::now();
        let (mut printed, mut rounds) = (0, 0);
        // Until neither terminal nor backlog takes more, and the ring is full.
        loop {
            let now = start + rounds * Duration::from_millis(200);
            let taken = CONSOLE_OUTPUT
                .write(console.page.pages(), &[b'x'; 2048])
                .unwrap();
            printed += taken;
            console.event();
            if console.due(now).is_none() && taken == 0 {
                break;
            }
            console.serve_ring(now).unwrap();
            rounds += 1;
        }
        assert_eq!(console.waiting(), (4096, 0));
        let (mut seen, mut piece) = (0, [0; 4096]);
        while seen < printed {
            seen += visitor.read(&mut piece).unwrap();
            console.serve_output();
            rounds += 1;
            let now = start + rounds * Duration::from_millis(200);
            console.serve_ring(now).unwrap();
        }
        assert_eq!((seen, console.waiting()), (printed, (0, 0)));
    }

    #[test]
    fn a_guest_that_prints_too_fast_waits() {
        let (mut console, _visitor) = console();
        let now = Instant::now();
        let mut rounds = 0;
        while console.due(now) == Some(Duration::ZERO) {
            print(&console, &[b'x'; 2048]);
            console.serve_ring(now).unwrap();
            rounds += 1;
        }
        assert_eq!(rounds, 30);
        assert!(console.due(now).is_some());
    }

    #[test]
    fn the_last_words_are_kept_until_they_are_read() {
        let (console, mut visitor) = console();
        print(&console, b"bye\n");
        let now = Instant::now();
        let mut remains = console.close(now);
        assert!(!remains.are_over(now));
        let mut got = [0; 4];
        visitor.read_exact(&mut got).unwrap();
        assert!(remains.are_over(now + Remains::SETTLING));
    }
}
