//! ls: the tree below a path, indented or with whole paths, with permissions on request.

use std::io::{self, BufWriter, Write};

use xenstore::{Error, Ops, Store, path};

use super::options::Options;
use super::simple::perms_text;
use super::text::{escape, lossy};
use super::{Outcome, Stop, failed, say};

/// Width of a line where stdout is no terminal.
const WIDTH: usize = 80;
/// Column of the permissions.
const PERMS_COLUMN: usize = 60;
/// Columns of ` = "..."`.
const TAG: usize = 8;

/// How to print.
struct Layout {
    width: usize,
    perms_column: usize,
    is_flat: bool,
    has_perms: bool,
}

/// Prints the tree below each path, or below the root.
pub(super) fn ls(store: &Store, options: &Options) -> Outcome {
    let layout = Layout {
        width: if options.is_flat { usize::MAX } else { width() },
        perms_column: if options.is_flat { 0 } else { PERMS_COLUMN },
        is_flat: options.is_flat,
        has_perms: options.has_prefix,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let root = [b"/".to_vec()];
    let paths = if options.operands.is_empty() {
        &root[..]
    } else {
        &options.operands
    };
    for path in paths {
        below(store, &lossy(path), 0, &layout, &mut out)?;
    }
    out.flush().map_err(ended)
}

fn width() -> usize {
    rustix::termios::tcgetwinsize(io::stdout())
        .map_or(WIDTH, |size| usize::from(size.ws_col).saturating_sub(2))
}

fn below(
    store: &Store,
    parent: &str,
    depth: usize,
    layout: &Layout,
    out: &mut impl Write,
) -> Outcome {
    let names = match store.directory(parent) {
        Ok(names) => names,
        // It went while we were looking.
        Err(error) if depth > 0 && error.is_not_found() => return Ok(()),
        Err(error) => return Err(failed("xs_directory", &format!("({parent})"), &error)),
    };
    for name in names {
        let path = path::join(parent, &name);
        let line =
            line(store, &path, &name, depth, layout).map_err(|error| say(error.to_string()))?;
        writeln!(out, "{line}").map_err(ended)?;
        below(store, &path, depth + 1, layout, out)?;
    }
    Ok(())
}

/// Makes the line of one node.
fn line(
    store: &Store,
    path: &str,
    name: &str,
    depth: usize,
    layout: &Layout,
) -> Result<String, Error> {
    let mut line = if layout.is_flat {
        path.to_owned()
    } else {
        let room = layout.width.saturating_sub(TAG + depth);
        format!("{:depth$}{name:.room$}", "")
    };
    // Whole paths do not count towards the width, which is unlimited then.
    let used = if layout.is_flat { 0 } else { line.len() };
    match store.read(path) {
        Ok(value) => push_value(&mut line, used, &value, layout),
        // A line without value ends here; with permissions they follow on the next one, as in Xen.
        Err(Error::Refused { .. }) => line.push_str(":\n"),
        Err(error) => return Err(error),
    }
    if layout.has_perms
        && let Ok(perms) = store.get_perms(path)
    {
        line.push_str(&format!("  ({})", perms_text(&perms)));
    }
    Ok(line)
}

fn push_value(line: &mut String, used: usize, value: &[u8], layout: &Layout) {
    let text = escape(value);
    if layout.width < used.saturating_add(value.len() + TAG) {
        let room = layout.width.saturating_sub(TAG + used);
        line.push_str(&format!(" = \"{text:.room$}\\...\""));
        return;
    }
    line.push_str(&format!(" = \"{text}\""));
    if layout.has_perms {
        let mut column = used + text.len() + 6;
        line.push(' ');
        while column < layout.perms_column.min(layout.width) {
            line.push(if column % 2 == 1 { '.' } else { ' ' });
            column += 1;
        }
    }
}

fn ended(error: io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Stop::Quietly(1),
        _ => say(format!("stdout: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::net::UnixStream, thread};

    use xenstore::{Kind, wire, wire::Inbox};

    use super::*;

    fn pushed(name: &str, value: &str, layout: &Layout) -> String {
        let mut line = name.to_owned();
        push_value(&mut line, name.len(), value.as_bytes(), layout);
        line
    }

    /// Answers from a listing as `ls -f -p` prints it.
    fn serve(listing: &'static str) -> Store {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let nodes: Vec<(&str, &str, String)> = listing
            .lines()
            .map(|line| {
                let (path, rest) = line.split_once(" = \"").unwrap();
                let (value, perms) = rest.split_once("\"   (").unwrap();
                (path, value, perms.replace([',', ')'], "\0"))
            })
            .collect();
        thread::spawn(move || {
            let (mut inbox, mut buffer) = (Inbox::default(), [0; 4112]);
            while let Ok(count @ 1..) = theirs.read(&mut buffer) {
                inbox.push(&buffer[..count]);
                while let Some(m) = inbox.pop().unwrap() {
                    let path = str::from_utf8(&m.payload).unwrap().trim_end_matches('\0');
                    let node = nodes.iter().find(|(known, ..)| *known == path);
                    let payload = match Kind::from_number(m.kind).unwrap() {
                        Kind::Read => node.unwrap().1.to_owned(),
                        Kind::GetPerms => node.unwrap().2.clone(),
                        _ => {
                            let below = format!("{}/", path.trim_end_matches('/'));
                            let names = nodes.iter().filter_map(|(p, ..)| p.strip_prefix(&below));
                            let names = names.filter(|name| !name.contains('/'));
                            names.map(|name| format!("{name}\0")).collect()
                        }
                    };
                    let mut out = Vec::new();
                    wire::encode(&mut out, m.kind, m.req_id, 0, &[payload.as_bytes()]).unwrap();
                    theirs.write_all(&out).unwrap();
                }
            }
        });
        Store::from_stream(ours)
    }

    #[test]
    fn whole_listings_are_what_xen_printed() {
        let (flat, with_perms) = (
            include_str!("testdata/ls-f.txt"),
            include_str!("testdata/ls-fp.txt"),
        );
        let store = serve(with_perms);
        for (expected, has_perms) in [(flat, false), (with_perms, true)] {
            let layout = Layout {
                width: usize::MAX,
                perms_column: 0,
                is_flat: true,
                has_perms,
            };
            let mut out = Vec::new();
            assert!(below(&store, "/", 0, &layout, &mut out).is_ok());
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn long_values_are_cut_at_the_width() {
        let layout = Layout {
            width: 20,
            perms_column: 60,
            is_flat: false,
            has_perms: false,
        };
        assert_eq!(pushed("name", "12345678", &layout), "name = \"12345678\"");
        assert_eq!(
            pushed("name", "123456789", &layout),
            "name = \"12345678\\...\""
        );
    }

    #[test]
    fn permissions_are_led_to_by_dots() {
        let layout = Layout {
            width: 80,
            perms_column: 20,
            is_flat: false,
            has_perms: true,
        };
        assert_eq!(pushed("name", "v", &layout), "name = \"v\" . . . . .");
        let flat = Layout {
            width: usize::MAX,
            perms_column: 0,
            is_flat: true,
            has_perms: true,
        };
        assert_eq!(pushed("/name", "v", &flat), "/name = \"v\" ");
    }
}
