//! The live screen of `xl top`: q ends it, s orders by another column, arrows choose a line.

use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::prelude::{Color, Frame, Modifier, Style};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::batch::cells;
use super::collect::Collector;
use super::{Sample, Usage};
use crate::failure::Outcome;

/// Which of xentop's columns are shown: name and width.
const COLUMNS: [(usize, &str, u16); 12] = [
    (0, "NAME", 24),
    (1, "STATE", 6),
    (2, "CPU(sec)", 10),
    (3, "CPU(%)", 6),
    (4, "MEM(k)", 11),
    (5, "MEM(%)", 6),
    (6, "MAXMEM(k)", 11),
    (8, "VCPUS", 5),
    (10, "NETTX(k)", 10),
    (11, "NETRX(k)", 10),
    (14, "VBD_RD", 9),
    (15, "VBD_WR", 9),
];

/// What the lines are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Share of CPU, the largest first.
    Cpu,
    /// Memory, the largest first.
    Memory,
    /// Name.
    Name,
    /// Id.
    Domid,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Order::Cpu => Order::Memory,
            Order::Memory => Order::Name,
            Order::Name => Order::Domid,
            Order::Domid => Order::Cpu,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Order::Cpu => "CPU",
            Order::Memory => "memory",
            Order::Name => "name",
            Order::Domid => "id",
        }
    }
}

/// How the screen is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time between samples.
    pub delay: Duration,
    /// Samples before it ends by itself.
    pub iterations: Option<u64>,
    /// Names as long as they are.
    pub full_name: bool,
    /// Domain-0 first.
    pub dom0_first: bool,
}

/// Shows samples until the user ends it, or there were as many as were asked for.
///
/// # Errors
/// The collector's, or the terminal's.
pub fn run(collector: &mut Collector<'_>, options: Options) -> Outcome {
    let delay = options.delay;
    let mut samples = options.iterations.unwrap_or(u64::MAX);
    let mut screen = Screen {
        order: Order::Cpu,
        options,
        table: TableState::default().with_selected(0),
    };
    let mut sample = collector.sample()?;
    let mut terminal = ratatui::try_init()?;
    let outcome = (|| {
        let mut next = Instant::now() + delay;
        loop {
            terminal.draw(|frame| screen.draw(frame, &sample))?;
            let left = next.saturating_duration_since(Instant::now());
            if event::poll(left)? {
                if screen.handle(&event::read()?, sample.domains.len()) {
                    return Ok(());
                }
            } else {
                samples = samples.saturating_sub(1);
                if samples == 0 {
                    return Ok(());
                }
                sample = collector.sample()?;
                next = Instant::now() + delay;
            }
        }
    })();
    ratatui::restore();
    outcome
}

struct Screen {
    order: Order,
    options: Options,
    table: TableState,
}

impl Screen {
    /// Acts on a key; true where it ends the program.
    fn handle(&mut self, event: &Event, lines: usize) -> bool {
        let Event::Key(key) = event else { return false };
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let selected = self.table.selected().unwrap_or(0);
        match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char('s' | 'S') => self.order = self.order.next(),
            KeyCode::Down => self
                .table
                .select(Some((selected + 1).min(lines.saturating_sub(1)))),
            KeyCode::Up => self.table.select(Some(selected.saturating_sub(1))),
            _ => {}
        }
        false
    }

    /// Gives the width of the names: that of the longest one where they are to be whole.
    fn name_width(&self, sample: &Sample, usual: u16) -> u16 {
        let lengths = sample
            .domains
            .iter()
            .map(|usage| usage.name.chars().count());
        let longest = lengths.max().and_then(|length| u16::try_from(length).ok());
        match longest {
            Some(longest) if self.options.full_name => longest.max(usual),
            _ => usual,
        }
    }

    fn draw(&mut self, frame: &mut Frame<'_>, sample: &Sample) {
        let [head, body, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(summary(sample)), head);
        let rows = ordered(&sample.domains, self.order, self.options.dom0_first)
            .into_iter()
            .map(|usage| {
                let cells = cells(usage, sample.total_bytes, true);
                Row::new(COLUMNS.map(|(column, _, width)| {
                    let text = cells.get(column).map_or("", String::as_str);
                    let width = usize::from(width);
                    Cell::from(if column == 0 {
                        text.to_owned()
                    } else {
                        format!("{text:>width$}")
                    })
                }))
                .style(style(usage))
            });
        let header = Row::new(COLUMNS.map(|(column, name, width)| {
            let width = usize::from(width);
            if column == 0 {
                name.to_owned()
            } else {
                format!("{name:>width$}")
            }
        }));
        let widths = COLUMNS.map(|(column, _, width)| {
            Constraint::Length(if column == 0 {
                self.name_width(sample, width)
            } else {
                width
            })
        });
        let table = Table::new(rows, widths)
            .header(header.style(Style::new().add_modifier(Modifier::REVERSED)))
            .row_highlight_style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED));
        frame.render_stateful_widget(table, body, &mut self.table);
        let keys = format!(
            "q quit   s order (by {})   arrows choose",
            self.order.name()
        );
        frame.render_widget(
            Paragraph::new(keys).style(Style::new().fg(Color::DarkGray)),
            foot,
        );
    }
}

fn style(usage: &Usage) -> Style {
    let state = usage.state;
    if state.crashed || state.dying {
        Style::new().fg(Color::Red)
    } else if state.paused || state.shutdown {
        Style::new().fg(Color::Yellow)
    } else if state.running {
        Style::new().fg(Color::Green)
    } else {
        Style::new()
    }
}

fn summary(sample: &Sample) -> String {
    let count = |is: fn(&Usage) -> bool| sample.domains.iter().filter(|usage| is(usage)).count();
    let kib = |bytes: u64| bytes / 1024;
    format!(
        "{} domains: {} running, {} blocked, {} paused, {} crashed, {} dying, {} shutdown\n\
         Mem: {}k total, {}k used, {}k free    CPUs: {} @ {}MHz",
        sample.domains.len(),
        count(|u| u.state.running),
        count(|u| u.state.blocked),
        count(|u| u.state.paused),
        count(|u| u.state.crashed),
        count(|u| u.state.dying),
        count(|u| u.state.shutdown),
        kib(sample.total_bytes),
        kib(sample.total_bytes.saturating_sub(sample.free_bytes)),
        kib(sample.free_bytes),
        sample.cpus,
        sample.cpu_khz / 1000,
    )
}

/// Gives the domains in an order.
pub fn ordered(domains: &[Usage], order: Order, dom0_first: bool) -> Vec<&Usage> {
    let mut ordered: Vec<&Usage> = domains.iter().collect();
    ordered.sort_by(|a, b| {
        let dom0 = if dom0_first {
            (a.domid != 0).cmp(&(b.domid != 0))
        } else {
            std::cmp::Ordering::Equal
        };
        dom0.then_with(|| match order {
            Order::Cpu => b.cpu_percent.total_cmp(&a.cpu_percent),
            Order::Memory => b.memory_bytes.cmp(&a.memory_bytes),
            Order::Name => a.name.cmp(&b.name),
            Order::Domid => a.domid.cmp(&b.domid),
        })
        .then(a.domid.cmp(&b.domid))
    });
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    const OPTIONS: Options = Options {
        delay: Duration::ZERO,
        iterations: None,
        full_name: false,
        dom0_first: false,
    };

    fn sample() -> Sample {
        let usage = |name: &str, domid, cpu_percent, memory_bytes| Usage {
            name: name.into(),
            domid,
            cpu_percent,
            memory_bytes,
            ..Usage::default()
        };
        Sample {
            total_bytes: 2 << 30,
            free_bytes: 1 << 30,
            cpus: 1,
            cpu_khz: 50_000,
            domains: vec![
                usage("Domain-0", 0, 2.5, 512 << 20),
                usage("web", 3, 70.0, 256 << 20),
            ],
        }
    }

    #[test]
    fn the_busiest_domain_is_on_top() {
        let sample = sample();
        let names = |order, dom0_first| {
            ordered(&sample.domains, order, dom0_first)
                .iter()
                .map(|u| u.name.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(Order::Cpu, false), ["web", "Domain-0"]);
        assert_eq!(names(Order::Cpu, true), ["Domain-0", "web"]);
        assert_eq!(names(Order::Memory, false), ["Domain-0", "web"]);
    }

    #[test]
    fn the_screen_shows_the_host_and_each_domain() {
        let mut terminal = Terminal::new(TestBackend::new(140, 8)).unwrap();
        let mut screen = Screen {
            order: Order::Cpu,
            options: OPTIONS,
            table: TableState::default(),
        };
        terminal
            .draw(|frame| screen.draw(frame, &sample()))
            .unwrap();
        let text: String = terminal
            .backend()
            .buffer()
            .content()
            .iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect();
        for part in [
            "2 domains:",
            "Mem: 2097152k total",
            "CPU(%)",
            "web",
            "Domain-0",
            "70.0",
            "q quit",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }

    #[test]
    fn names_are_whole_where_that_is_asked_for() {
        let mut long = sample();
        long.domains[1].name = "w".repeat(40);
        let shown = |full_name| {
            let mut terminal = Terminal::new(TestBackend::new(160, 8)).unwrap();
            let mut screen = Screen {
                order: Order::Cpu,
                options: Options {
                    full_name,
                    ..OPTIONS
                },
                table: TableState::default(),
            };
            terminal.draw(|frame| screen.draw(frame, &long)).unwrap();
            let cells = terminal.backend().buffer().content().iter();
            cells.filter(|cell| cell.symbol() == "w").count()
        };
        assert!(shown(false) < 40 && shown(true) >= 40);
    }

    #[test]
    fn keys_order_choose_and_end() {
        let mut screen = Screen {
            order: Order::Cpu,
            options: OPTIONS,
            table: TableState::default(),
        };
        let key = |code| Event::Key(ratatui::crossterm::event::KeyEvent::from(code));
        assert!(!screen.handle(&key(KeyCode::Char('s')), 2) && screen.order == Order::Memory);
        for _ in 0..3 {
            screen.handle(&key(KeyCode::Down), 2);
        }
        assert_eq!(screen.table.selected(), Some(1));
        assert!(screen.handle(&key(KeyCode::Char('q')), 2));
    }
}
