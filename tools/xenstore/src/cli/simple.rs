//! read, write, rm, exists, list and chmod: in one transaction where they do more than one thing.

use xenstore::{Ops, Perm, path};

use super::options::{Mode, Options};
use super::text::{escape, lossy, unescape};
use super::{Outcome, Stop, failed, read, say};

/// Does what was asked for; what it prints goes to `out`.
pub(super) fn run(at: &impl Ops, options: &Options, out: &mut Vec<u8>) -> Outcome {
    let operands = &options.operands;
    match options.mode {
        Mode::Write => operands.chunks(2).try_for_each(|pair| match pair {
            [path, value] => write(at, options, path, value),
            _ => Ok(()),
        }),
        Mode::Chmod => chmod(at, options),
        _ => operands.iter().try_for_each(|path| match options.mode {
            Mode::Read => print_value(at, options, path, out),
            Mode::Rm => remove(at, options, &lossy(path)),
            Mode::Exists => read(at, path).map(drop).map_err(|error| {
                if error.is_again() {
                    return Stop::Again;
                }
                Stop::Quietly(1)
            }),
            _ => print_names(at, options, &lossy(path), out),
        }),
    }
}

fn print_value(at: &impl Ops, options: &Options, path: &[u8], out: &mut Vec<u8>) -> Outcome {
    let value =
        read(at, path).map_err(|error| without_reason("couldn't read path", path, &error))?;
    if options.has_prefix {
        out.extend_from_slice(path);
        out.extend_from_slice(b": ");
    }
    if options.is_raw {
        out.extend_from_slice(&value);
    } else {
        out.extend_from_slice(escape(&value).as_bytes());
        out.push(b'\n');
    }
    Ok(())
}

fn write(at: &impl Ops, options: &Options, path: &[u8], value: &[u8]) -> Outcome {
    let value = if options.is_raw {
        value.to_vec()
    } else {
        unescape(value)
    };
    at.write(&lossy(path), value)
        .map_err(|error| without_reason("could not write path", path, &error))
}

/// Removes a node; tidily, with the parents that it leaves empty.
fn remove(at: &impl Ops, options: &Options, path: &str) -> Outcome {
    let refused = |error| without_reason("could not remove path", path.as_bytes(), &error);
    at.rm(path).map_err(refused)?;
    if !options.is_tidy {
        return Ok(());
    }
    let Some((parent, _)) = path
        .rsplit_once('/')
        .filter(|(parent, _)| !parent.is_empty())
    else {
        return Ok(());
    };
    let is_empty = at.read(parent).is_ok_and(|value| value.is_empty());
    if is_empty && at.directory(parent).is_ok_and(|names| names.is_empty()) {
        return remove(at, options, parent);
    }
    Ok(())
}

fn print_names(at: &impl Ops, options: &Options, path: &str, out: &mut Vec<u8>) -> Outcome {
    let names = at
        .directory(path)
        .map_err(|error| without_reason("could not list path", path.as_bytes(), &error))?;
    for name in names {
        // For the root that makes two slashes, as Xen 4.17 prints.
        let line = if options.has_prefix {
            format!("{path}/{name}")
        } else {
            name
        };
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    Ok(())
}

fn chmod(at: &impl Ops, options: &Options) -> Outcome {
    let Some((path, modes)) = options.operands.split_first() else {
        return Ok(());
    };
    let perms: Result<Vec<_>, _> = modes.iter().map(|mode| permission(mode)).collect();
    let (path, perms) = (lossy(path), perms?);
    set(at, &path, &perms)?;
    if options.is_upto {
        let mut above = path.as_str();
        while let Some(parent) = path::parent(above).filter(|parent| *parent != "/") {
            set(at, parent, &perms)?;
            above = parent;
        }
    }
    if options.is_recursive {
        set_below(at, &path, &perms)?;
    }
    Ok(())
}

fn permission(mode: &[u8]) -> Result<Perm, Stop> {
    Perm::parse(mode).ok_or_else(|| {
        let letter = mode.first().copied().map_or(' ', char::from);
        say(format!("Invalid permission specification: '{letter}'"))
    })
}

fn set(at: &impl Ops, path: &str, perms: &[Perm]) -> Outcome {
    let what = format!("Error occurred setting permissions on '{path}'");
    at.set_perms(path, perms).map_err(|error| {
        if error.is_again() {
            return Stop::Again;
        }
        let reason = error
            .refusal()
            .map_or_else(|| error.to_string(), |refusal| refusal.message().to_owned());
        say(format!("{what}: {reason}"))
    })
}

fn set_below(at: &impl Ops, path: &str, perms: &[Perm]) -> Outcome {
    for name in at.directory(path).unwrap_or_default() {
        let child = path::join(path, &name);
        set(at, &child, perms)?;
        set_below(at, &child, perms)?;
    }
    Ok(())
}

/// Xen's clients say which path, not why.
fn without_reason(what: &str, path: &[u8], error: &xenstore::Error) -> Stop {
    match failed(what, &lossy(path), error) {
        Stop::Again => Stop::Again,
        _ => say(format!("{what} {}", lossy(path))),
    }
}

/// Formats permissions as `n0,r3`.
pub(super) fn perms_text(perms: &[Perm]) -> String {
    let all: Vec<_> = perms.iter().map(Perm::to_string).collect();
    all.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_parsed_and_printed() {
        let perms = [&b"n0"[..], b"b3"].map(|mode| permission(mode).ok().unwrap());
        assert_eq!(perms_text(&perms), "n0,b3");
        assert_eq!(perms[1].access, xenstore::Access::Both);
        assert!(matches!(permission(b"x3"), Err(Stop::Say(text, 1)) if text.ends_with("'x'")));
    }
}
