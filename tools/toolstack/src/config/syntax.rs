//! The grammar of xl.cfg(5): `KEY = VALUE`, `KEY += VALUE`, ends of lines or `;` between, `#` comments.
//!
//! A value is a string in either quotes, a number, or a list of values; only within a list may lines end. Numbers stay
//! text here (`0x10`, `94f1`): who asks for the key knows what it should be.

use std::ops::Range;

use winnow::ascii::{multispace0, space0, till_line_ending};
use winnow::combinator::{
    alt, cut_err, delimited, eof, opt, peek, preceded, repeat, separated, terminated,
};
use winnow::error::{StrContext, StrContextValue};
use winnow::prelude::*;
use winnow::stream::LocatingSlice;
use winnow::token::{any, none_of, one_of, take_while};

use super::message::{Message, Source};

type Input<'a> = LocatingSlice<&'a str>;

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
    Atom(String),
    /// A list.
    List(Vec<Value>),
}

/// Reads a whole configuration.
///
/// # Errors
/// The first place that does not follow the grammar.
pub(crate) fn parse(source: &Source) -> Result<Vec<Setting>, Message> {
    file.parse(LocatingSlice::new(source.text()))
        .map_err(|error| {
            let what = error
                .inner()
                .context()
                .find_map(expected)
                .unwrap_or("a key, as in memory = 256");
            source.message(error.char_span(), format!("expected {what}"))
        })
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

fn file(input: &mut Input<'_>) -> ModalResult<Vec<Setting>> {
    let settings = repeat(0.., preceded(between, terminated(setting, end))).parse_next(input)?;
    between.parse_next(input)?;
    eof.context(want("a key in lower case, as in memory = 256"))
        .parse_next(input)?;
    Ok(settings)
}

/// Skips blank lines, comments and `;`.
fn between(input: &mut Input<'_>) -> ModalResult<()> {
    repeat(
        0..,
        alt((one_of([' ', '\t', '\r', '\n', ';']).void(), comment)),
    )
    .parse_next(input)
}

fn comment(input: &mut Input<'_>) -> ModalResult<()> {
    ('#', till_line_ending).void().parse_next(input)
}

/// Checks that nothing follows a setting on its line; what ends it is skipped by [`between`].
fn end(input: &mut Input<'_>) -> ModalResult<()> {
    let ends = alt((one_of(['\r', '\n', ';', '#']).void(), eof.void()));
    (
        space0,
        cut_err(peek(ends)).context(want("the end of the line")),
    )
        .void()
        .parse_next(input)
}

fn setting(input: &mut Input<'_>) -> ModalResult<Setting> {
    let (key, key_at) = key.with_span().parse_next(input)?;
    let operator = alt(("+=".value(true), "=".value(false)));
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
    let rest = take_while(0.., |c: char| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '_'
    });
    (one_of('a'..='z'), rest)
        .take()
        .map(str::to_owned)
        .parse_next(input)
}

fn value(input: &mut Input<'_>) -> ModalResult<Value> {
    let kind = alt((
        quoted('"').map(Kind::Atom),
        quoted('\'').map(Kind::Atom),
        number.map(Kind::Atom),
        list.map(Kind::List),
    ));
    kind.with_span()
        .map(|(kind, at)| Value { at, kind })
        .parse_next(input)
}

fn number(input: &mut Input<'_>) -> ModalResult<String> {
    let rest = take_while(0.., |c: char| {
        c.is_ascii_digit() || matches!(c, 'a'..='f' | 'x')
    });
    (opt('-'), one_of('0'..='9'), rest)
        .take()
        .map(str::to_owned)
        .parse_next(input)
}

fn list(input: &mut Input<'_>) -> ModalResult<Vec<Value>> {
    '['.parse_next(input)?;
    let inside = cut_err(|input: &mut Input<'_>| {
        gap(input)?;
        let values = separated(0.., terminated(value, gap), (',', gap)).parse_next(input)?;
        opt((',', gap)).parse_next(input)?;
        Ok(values)
    })
    .parse_next(input)?;
    cut_err(']')
        .context(want("a comma and a value, or ] at the end of the list"))
        .parse_next(input)?;
    Ok(inside)
}

/// Skips blanks, ends of lines and comments within a list.
fn gap(input: &mut Input<'_>) -> ModalResult<()> {
    multispace0.parse_next(input)?;
    repeat(0.., (comment, multispace0).void()).parse_next(input)
}

fn quoted<'a>(
    quote: char,
) -> impl Parser<Input<'a>, String, winnow::error::ErrMode<winnow::error::ContextError>> {
    move |input: &mut Input<'a>| {
        let mut opening = quote;
        opening.parse_next(input)?;
        let char_of = alt((
            none_of(move |c| c == quote || c == '\\' || c == '\n'),
            preceded('\\', cut_err(escape)),
        ));
        let text: String = repeat(0.., char_of).parse_next(input)?;
        let closing = if quote == '"' {
            "the closing \""
        } else {
            "the closing '"
        };
        cut_err(quote).context(want(closing)).parse_next(input)?;
        Ok(text)
    }
}

fn escape(input: &mut Input<'_>) -> ModalResult<char> {
    const WHAT: &str = "one of \\\\ \\\" \\' \\n \\t \\r \\xHH \\OOO after the backslash";
    let known = |c: char| "\\\"'ntrabfvx01234567".contains(c);
    match any
        .verify(|c| known(*c))
        .context(want(WHAT))
        .parse_next(input)?
    {
        c @ ('\\' | '"' | '\'') => Ok(c),
        'n' => Ok('\n'),
        't' => Ok('\t'),
        'r' => Ok('\r'),
        'a' => Ok('\x07'),
        'b' => Ok('\x08'),
        'f' => Ok('\x0c'),
        'v' => Ok('\x0b'),
        'x' => take_while(2..=2, |c: char| c.is_ascii_hexdigit())
            .try_map(|digits| u8::from_str_radix(digits, 16))
            .map(char::from)
            .context(want("two hex digits after \\x"))
            .parse_next(input),
        octal_digit => octal(octal_digit, input),
    }
}

fn octal(first: char, input: &mut Input<'_>) -> ModalResult<char> {
    take_while(0..=2, '0'..='7')
        .try_map(|rest: &str| u8::from_str_radix(&format!("{first}{rest}"), 8))
        .map(char::from)
        .context(want("an octal number up to 377"))
        .parse_next(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Setting>, Message> {
        parse(&Source::new("t.cfg", text, &[] as &[&str]))
    }

    fn atom(text: &str) -> String {
        match read(&format!("k={text}")).unwrap().remove(0).value.kind {
            Kind::Atom(text) => text,
            Kind::List(_) => panic!("a list"),
        }
    }

    #[test]
    fn strings_numbers_and_escapes_are_read() {
        assert_eq!(atom(r#""a 'b' # c""#), "a 'b' # c");
        assert_eq!(atom(r#"'a "b"'"#), "a \"b\"");
        assert_eq!(atom(r#""tab\t\"\x41\101\\""#), "tab\t\"AA\\");
        assert_eq!(atom("0x1f"), "0x1f");
        assert_eq!(atom("\"\""), "");
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
        assert_eq!(items[0].kind, Kind::Atom("x".into()));
        let Kind::List(inner) = &items[1].kind else {
            panic!("no inner list")
        };
        assert_eq!(inner.len(), 2);
        assert!(read("a=[]").is_ok() && read("a += 'x'").unwrap()[0].append);
    }

    #[test]
    fn every_text_gives_settings_or_a_place_within_it() {
        proptest::proptest!(|(text in "[a-z0-9=+\\[\\],;#'\"\\\\ \n]{0,40}")| {
            if let Err(message) = read(&text) {
                assert!(message.line >= 1 && message.line <= text.lines().count() + 1);
                assert!(!message.to_string().is_empty());
            }
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
        ] {
            let message = read(text).unwrap_err();
            assert_eq!(
                (message.line, message.column),
                (line, column),
                "{text:?}: {message}"
            );
            assert!(message.text.contains(what), "{text:?}: {message}");
        }
    }
}
