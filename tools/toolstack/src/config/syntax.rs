//! The grammar of xl.cfg(5): `KEY = VALUE`, `KEY += VALUE`, ends of lines or `;` between, `#` comments.
//!
//! A value is a string in either quotes, a number, or a list of values; only within a list may lines end. Numbers stay
//! text here (`0x10`, `94f1`): who asks for the key knows what it should be. Strings are bytes, as paths are.
//!
//! After a mistake reading goes on at the next line that begins with `KEY =`, so that one run tells all of them.

use std::ops::Range;

use winnow::ascii::{multispace0, space0, till_line_ending};
use winnow::combinator::{
    alt, cut_err, delimited, eof, fail, opt, peek, preceded, repeat, separated, terminated,
};
use winnow::error::{ContextError, ErrMode, StrContext, StrContextValue};
use winnow::prelude::*;
use winnow::stream::{LocatingSlice, Location, Stateful, Stream};
use winnow::token::{any, none_of, one_of, rest, take_while};

use super::message::{Message, Source};

/// Bytes, and how many lists are open.
type Input<'a> = Stateful<LocatingSlice<&'a [u8]>, usize>;

/// Most lists within each other; no key of xl.cfg(5) has more than two.
const DEEPEST: usize = 32;

/// One assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) key_at: Range<usize>,
    pub(crate) append: bool,
    pub(crate) value: Value,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) at: Range<usize>,
    pub(crate) kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A string or a number.
    Atom(Vec<u8>),
    /// A list.
    List(Vec<Value>),
}

/// Reads a whole configuration: what it sets, and the places that do not follow the grammar.
pub(crate) fn parse(source: &Source) -> (Vec<Setting>, Vec<Message>) {
    let text = source.text();
    let (mut settings, mut errors) = (Vec::new(), Vec::new());
    if text.starts_with(BYTE_ORDER_MARK) {
        let what = "the file begins with a byte-order mark: save it as UTF-8 without one";
        errors.push(source.message(0..1, what));
    }
    let mut input = Stateful {
        input: LocatingSlice::new(text),
        state: 0,
    };
    if !errors.is_empty() {
        input.next_slice(BYTE_ORDER_MARK.len());
    }
    while !input.is_empty() {
        let from = input.current_token_start();
        match opt_setting.parse_next(&mut input) {
            Ok(setting) => settings.extend(setting),
            Err(error) => {
                let place = input.current_token_start();
                errors.push(source.message(place..place + 1, wrong(&error, text, from, place)));
                input.next_slice(next_setting(text, place) - place);
                input.state = 0;
            }
        }
    }
    (settings, errors)
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Says what was expected, and what may have been meant.
fn wrong(error: &ErrMode<ContextError>, text: &[u8], from: usize, place: usize) -> String {
    let context = match error {
        ErrMode::Backtrack(error) | ErrMode::Cut(error) => error.context().find_map(expected),
        ErrMode::Incomplete(_) => None,
    };
    let context = context.unwrap_or("a key in lower case, as in memory = 256");
    let here = text.get(place..).unwrap_or_default();
    let line = here.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.get(..line.len().min(64)).unwrap_or_default();
    let before = text.get(from..place).unwrap_or_default();
    format!("expected {context}{}", hint(line, before))
}

/// Guesses what was meant by what stands where something else was expected.
fn hint(line: &[u8], before: &[u8]) -> String {
    let curly = ["\u{201c}", "\u{201d}", "\u{2018}", "\u{2019}"];
    if curly.iter().any(|quote| line.starts_with(quote.as_bytes())) {
        return "; quotes are straight: \" or '".to_owned();
    }
    let key_of = |before: &[u8]| {
        let key = before
            .split(|byte| *byte == b'=')
            .next()
            .unwrap_or_default();
        let key = key.rsplit(|byte| b"\n;".contains(byte)).next()?;
        Some(String::from_utf8_lossy(key).trim().to_owned())
    };
    let end = line
        .iter()
        .position(|c| !(c.is_ascii_alphanumeric() || b"_-./".contains(c)))
        .unwrap_or(line.len());
    let word = String::from_utf8_lossy(line.get(..end).unwrap_or_default()).into_owned();
    let is_value = before.contains(&b'=');
    match word.as_str() {
        "yes" | "true" | "on" | "True" if is_value => "; yes is 1".to_owned(),
        "no" | "false" | "off" | "False" if is_value => "; no is 0".to_owned(),
        _ if word.starts_with('-') && word.len() > 1 => format!("; in quotes: \"{word}\""),
        // What follows a number on its line belonged to it: `memory = 2G`.
        _ if is_value && !word.is_empty() => {
            let digits = before.rsplit(|c| !c.is_ascii_digit()).next();
            let digits = String::from_utf8_lossy(digits.unwrap_or_default());
            let whole = format!("{digits}{word}");
            match (key_of(before).as_deref(), mebibytes(&whole)) {
                (Some("memory" | "maxmem"), Some(mib)) => format!("; it is in MiB: {mib}"),
                _ => format!("; in quotes: \"{whole}\""),
            }
        }
        _ => String::new(),
    }
}

/// Reads a size with a unit, `2G`, as MiB.
pub(crate) fn mebibytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(end);
    let number: u64 = digits.parse().ok()?;
    let bytes = match unit.trim_start().to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => number.checked_mul(1 << 10),
        "m" | "mb" | "mib" => number.checked_mul(1 << 20),
        "g" | "gb" | "gib" => number.checked_mul(1 << 30),
        "t" | "tb" | "tib" => number.checked_mul(1 << 40),
        _ => None,
    }?;
    Some(bytes >> 20)
}

/// Finds the next line after `from` that begins with `KEY =`; the end if there is none.
fn next_setting(text: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return text.len();
        };
        at += end + 1;
        if begins_setting(text.get(at..).unwrap_or_default()) {
            return at;
        }
    }
}

fn begins_setting(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    let end = line
        .iter()
        .position(|c| !is_of_key(*c))
        .unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    let blanks = rest.iter().position(|c| !matches!(c, b' ' | b'\t'));
    let rest = rest.get(blanks.unwrap_or(rest.len())..).unwrap_or_default();
    key.first().is_some_and(u8::is_ascii_lowercase)
        && (rest.starts_with(b"=") || rest.starts_with(b"+="))
}

const fn is_of_key(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'.' || c == b'_'
}

fn expected(context: &StrContext) -> Option<&'static str> {
    match context {
        StrContext::Expected(StrContextValue::Description(what)) => Some(*what),
        _ => None,
    }
}

fn want(what: &'static str) -> StrContext {
    StrContext::Expected(StrContextValue::Description(what))
}

/// Reads up to the end of the next setting, or of the text.
fn opt_setting(input: &mut Input<'_>) -> ModalResult<Option<Setting>> {
    between(input)?;
    if input.is_empty() {
        return Ok(None);
    }
    terminated(setting, end).map(Some).parse_next(input)
}

/// Skips blank lines, comments and `;`.
fn between(input: &mut Input<'_>) -> ModalResult<()> {
    repeat(
        0..,
        alt((one_of([b' ', b'\t', b'\r', b'\n', b';']).void(), comment)),
    )
    .parse_next(input)
}

fn comment(input: &mut Input<'_>) -> ModalResult<()> {
    // A carriage return alone ends no line.
    (b'#', till_line_ending_or_rest).void().parse_next(input)
}

fn till_line_ending_or_rest<'a>(input: &mut Input<'a>) -> ModalResult<&'a [u8]> {
    alt((take_while(0.., |c: u8| c != b'\n'), till_line_ending, rest)).parse_next(input)
}

/// Checks that nothing follows a setting on its line; what ends it is skipped by [`between`].
fn end(input: &mut Input<'_>) -> ModalResult<()> {
    let ends = alt((one_of([b'\r', b'\n', b';', b'#']).void(), eof.void()));
    (
        space0,
        cut_err(peek(ends)).context(want("the end of the line")),
    )
        .void()
        .parse_next(input)
}

fn setting(input: &mut Input<'_>) -> ModalResult<Setting> {
    let (key, key_at) = key.with_span().parse_next(input)?;
    let operator = alt((b"+=".value(true), b"=".value(false)));
    let append = cut_err(delimited(space0, operator, space0))
        .context(want("= or +="))
        .parse_next(input)?;
    let value = cut_err(value).context(want(WHAT_VALUE)).parse_next(input)?;
    Ok(Setting {
        key,
        key_at,
        append,
        value,
    })
}

const WHAT_VALUE: &str = "a value: a string in quotes, a number, or a list in brackets";

fn key(input: &mut Input<'_>) -> ModalResult<String> {
    (one_of(b'a'..=b'z'), take_while(0.., is_of_key))
        .take()
        .map(|key: &[u8]| String::from_utf8_lossy(key).into_owned())
        .parse_next(input)
}

fn value(input: &mut Input<'_>) -> ModalResult<Value> {
    let kind = alt((
        quoted(b'"').map(Kind::Atom),
        quoted(b'\'').map(Kind::Atom),
        number.map(Kind::Atom),
        list.map(Kind::List),
    ));
    kind.with_span()
        .map(|(kind, at)| Value { at, kind })
        .parse_next(input)
}

fn number(input: &mut Input<'_>) -> ModalResult<Vec<u8>> {
    let rest = take_while(0.., |c: u8| {
        c.is_ascii_digit() || matches!(c, b'a'..=b'f' | b'x')
    });
    (one_of(b'0'..=b'9'), rest)
        .take()
        .map(<[u8]>::to_vec)
        .parse_next(input)
}

fn list(input: &mut Input<'_>) -> ModalResult<Vec<Value>> {
    peek(b'[').parse_next(input)?;
    if input.state == DEEPEST {
        return cut_err(fail.context(want("no more than 32 lists within each other")))
            .parse_next(input);
    }
    b'['.parse_next(input)?;
    input.state += 1;
    let inside = cut_err(|input: &mut Input<'_>| {
        gap(input)?;
        let values = separated(0.., terminated(value, gap), (b',', gap)).parse_next(input)?;
        opt((b',', gap)).parse_next(input)?;
        Ok(values)
    })
    .parse_next(input)?;
    cut_err(b']')
        .context(want("a comma and a value, or ] at the end of the list"))
        .parse_next(input)?;
    input.state -= 1;
    Ok(inside)
}

/// Skips blanks, ends of lines and comments within a list.
fn gap(input: &mut Input<'_>) -> ModalResult<()> {
    multispace0.parse_next(input)?;
    repeat(0.., (comment, multispace0).void()).parse_next(input)
}

fn quoted<'a>(quote: u8) -> impl Parser<Input<'a>, Vec<u8>, ErrMode<ContextError>> {
    move |input: &mut Input<'a>| {
        let mut opening = quote;
        opening.parse_next(input)?;
        let plain = none_of(move |c| c == quote || c == b'\\' || c == b'\n' || c == 0);
        let byte = alt((plain, preceded(b'\\', cut_err(escape))));
        let text: Vec<u8> = repeat(0.., byte).parse_next(input)?;
        let closing = if quote == b'"' {
            "the closing \""
        } else {
            "the closing '"
        };
        let mut quote = quote;
        cut_err(quote.by_ref())
            .context(want(closing))
            .parse_next(input)?;
        Ok(text)
    }
}

fn escape(input: &mut Input<'_>) -> ModalResult<u8> {
    const WHAT: &str = "one of \\\\ \\\" \\' \\n \\t \\r \\xHH \\OOO after the backslash";
    let known = |c: u8| b"\\\"'ntrabfvx01234567".contains(&c);
    match any
        .verify(|c| known(*c))
        .context(want(WHAT))
        .parse_next(input)?
    {
        c @ (b'\\' | b'"' | b'\'') => Ok(c),
        b'n' => Ok(b'\n'),
        b't' => Ok(b'\t'),
        b'r' => Ok(b'\r'),
        b'a' => Ok(0x07),
        b'b' => Ok(0x08),
        b'f' => Ok(0x0c),
        b'v' => Ok(0x0b),
        b'x' => take_while(2..=2, |c: u8| c.is_ascii_hexdigit())
            .verify_map(|digits| byte(digits, 16))
            .context(want("two hex digits after \\x, not 00"))
            .parse_next(input),
        octal_digit => octal(octal_digit, input),
    }
}

fn octal(first: u8, input: &mut Input<'_>) -> ModalResult<u8> {
    take_while(0..=2, b'0'..=b'7')
        .verify_map(|rest: &[u8]| byte(&[&[first], rest].concat(), 8))
        .context(want("an octal number from 1 to 377"))
        .parse_next(input)
}

/// Reads a byte; not 0, which would end the string wherever it goes.
fn byte(digits: &[u8], radix: u32) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(digits, radix)
        .ok()
        .filter(|byte| *byte != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Setting>, Message> {
        let (settings, errors) = parse(&Source::new("t.cfg", text.as_bytes(), &[] as &[&str]));
        errors.into_iter().next().map_or(Ok(settings), Err)
    }

    fn atom(text: &str) -> Vec<u8> {
        match read(&format!("k={text}")).unwrap().remove(0).value.kind {
            Kind::Atom(text) => text,
            Kind::List(_) => panic!("a list"),
        }
    }

    #[test]
    fn strings_numbers_and_escapes_are_read() {
        assert_eq!(atom(r#""a 'b' # c""#), b"a 'b' # c");
        assert_eq!(atom(r#"'a "b"'"#), b"a \"b\"");
        assert_eq!(atom(r#""tab\t\"\x41\101\xe9\\""#), b"tab\t\"AA\xe9\\");
        assert_eq!(atom("0x1f"), b"0x1f");
        assert_eq!(atom("\"\""), b"");
    }

    #[test]
    fn lists_nest_and_span_lines() {
        let settings = read("a = [ 'x', # one\n  [1, 2],\n]\n;b=2;c=3 # end").unwrap();
        assert_eq!(
            settings.iter().map(|s| s.key.as_str()).collect::<Vec<_>>(),
            ["a", "b", "c"]
        );
        let Kind::List(items) = &settings[0].value.kind else {
            panic!("no list")
        };
        assert_eq!(items[0].kind, Kind::Atom(b"x".into()));
        let Kind::List(inner) = &items[1].kind else {
            panic!("no inner list")
        };
        assert_eq!(inner.len(), 2);
        assert!(read("a=[]").is_ok() && read("a += 'x'").unwrap()[0].append);
    }

    #[test]
    fn spans_are_of_the_whole_text() {
        let text = "# first\na = 'x'\nb = [ 'y' ]\n";
        for setting in read(text).unwrap() {
            assert_eq!(&text[setting.key_at.clone()], setting.key);
            assert!("'x'[ 'y' ]".contains(&text[setting.value.at.clone()]));
        }
    }

    #[test]
    fn every_text_gives_settings_or_places_within_it() {
        proptest::proptest!(|(text in "[a-z0-9=+\\[\\],;#'\"\\\\ \n]{0,40}")| {
            let source = Source::new("t.cfg", text.as_bytes(), &[] as &[&str]);
            for message in parse(&source).1 {
                assert!(message.line >= 1 && message.line <= text.lines().count() + 1);
                assert!(!message.to_string().is_empty());
            }
        });
    }

    #[test]
    fn bytes_that_are_no_text_panic_nobody() {
        proptest::proptest!(|(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60))| {
            let source = Source::new("t.cfg", &text, &[] as &[&str]);
            let shown: Vec<_> = parse(&source).1.iter().map(Message::to_string).collect();
            assert!(shown.iter().all(|text| text.starts_with("t.cfg:")));
        });
    }

    #[test]
    fn errors_name_line_and_column() {
        for (text, line, column, what) in [
            ("a=1\nb = oops\n", 2, 5, "a value"),
            ("a=\"x\nb=1\n", 1, 5, "the closing \""),
            ("a=[1,2\nb=3]", 2, 1, "a comma"),
            ("a=1 2", 1, 5, "the end of the line"),
            ("a:1", 1, 2, "= or +="),
            ("a='\\q'", 1, 5, "one of"),
            ("Name='x'", 1, 1, "a key"),
            ("a=1\n!", 2, 1, "a key"),
            ("a='x\\0'", 1, 7, "an octal number from 1"),
            ("a='\\x00'", 1, 8, "not 00"),
            ("a='\0'", 1, 4, "the closing '"),
        ] {
            let message = read(text).unwrap_err();
            assert_eq!(message.line, line, "{text:?}: {message}");
            assert!(message.text.contains(what), "{text:?}: {message}");
            assert!(message.column.abs_diff(column) <= 2, "{text:?}: {message}");
        }
    }

    #[test]
    fn what_was_meant_is_said() {
        for (text, what) in [
            ("localtime=yes", "; yes is 1"),
            ("localtime = false", "; no is 0"),
            ("memory=2G", "; it is in MiB: 2048"),
            ("vcpus=2x1", "a value"),
            ("name=web", "; in quotes: \"web\""),
            ("name=\u{201c}web\u{201d}", "; quotes are straight"),
            ("rtc_timeoffset=-60", "; in quotes: \"-60\""),
            ("\u{feff}name='a'", "byte-order mark"),
        ] {
            let told = read(text).map_or_else(|message| message.text, |_| "a value".into());
            assert!(told.contains(what), "{text}: {told}");
        }
        assert_eq!(mebibytes("512 mb"), Some(512));
    }

    #[test]
    fn every_mistake_is_told_and_what_is_right_is_read() {
        let text = "a = oops\nb = 'x'\nc = [ 1, two,\n 3 ]\nd = 'unclosed\ne = 5\n= 7\nf=1";
        let (settings, errors) = parse(&Source::new("t.cfg", text.as_bytes(), &[] as &[&str]));
        let lines: Vec<_> = errors.iter().map(|message| message.line).collect();
        assert_eq!(lines, [1, 3, 5, 7]);
        let keys: Vec<_> = settings
            .iter()
            .map(|setting| setting.key.as_str())
            .collect();
        assert_eq!(keys, ["b", "e", "f"]);
    }

    #[test]
    fn lists_too_deep_are_refused_and_cost_no_stack() {
        let nested = |depth: usize| format!("a={}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&nested(DEEPEST)).is_ok());
        for depth in [DEEPEST + 1, 9000, 1_000_000] {
            let message = read(&nested(depth)).unwrap_err();
            assert!(message.text.contains("no more than 32 lists"), "{message}");
        }
    }
}
