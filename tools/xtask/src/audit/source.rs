//! Our Rust, as tokens that know their line and whether only tests have them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Where our Rust is.
pub(super) const SOURCES: [&str; 5] = ["boot", "guest-abi", "hypervisor", "tests", "tools"];

/// One file.
pub(super) struct Source {
    /// From the top of the repository.
    pub(super) path: String,
    pub(super) text: String,
    /// The header: inner doc and plain comments before the first item.
    pub(super) header: String,
    pub(super) tokens: Vec<Token>,
    /// Lines of code: neither empty nor comments.
    pub(super) lines: usize,
    /// Files beside it that only tests have: `#[cfg(test)] mod name;`.
    test_modules: Vec<String>,
}

/// A word, a mark of punctuation, a literal, or an end of a group.
pub(super) struct Token {
    pub(super) text: String,
    /// From 1 on.
    pub(super) line: usize,
    /// An identifier or a keyword.
    pub(super) is_word: bool,
    /// What is not in the hypervisor or the tools that users run: tests, and what stands in for hardware on the host.
    pub(super) is_test: bool,
}

/// Reads all our files below `root`.
pub(super) fn all(root: &Path) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for dir in SOURCES {
        collect(&root.join(dir), "rs", &mut files)?;
    }
    files.sort();
    let read = |file: &PathBuf| Source::read(file, root);
    let mut sources: Vec<Source> = files.iter().map(read).collect::<Result<_>>()?;
    mark_test_files(&mut sources);
    Ok(sources)
}

/// Lists the files below `dir` whose names end in `.extension`.
pub(super) fn collect(dir: &Path, extension: &str, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, extension, files)?;
        } else if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    Ok(())
}

fn mark_test_files(sources: &mut [Source]) {
    let tests: Vec<String> = sources.iter().flat_map(Source::test_places).collect();
    for source in sources {
        let path = source.path.as_str();
        let is_test = path.starts_with("tests/")
            || path.contains("/tests/")
            || path.ends_with("_tests.rs")
            || tests.iter().any(|place| {
                path.starts_with(&format!("{place}/")) || path == format!("{place}.rs")
            });
        if is_test {
            source.tokens.iter_mut().for_each(|t| t.is_test = true);
        }
    }
}

impl Source {
    fn read(file: &Path, root: &Path) -> Result<Self> {
        let text = fs::read_to_string(file)?;
        let path = file.strip_prefix(root).unwrap_or(file).to_string_lossy();
        Self::new(&path, text)
    }

    pub(super) fn new(path: &str, text: String) -> Result<Self> {
        let tokens: TokenStream = text.parse().map_err(|e| anyhow::anyhow!("{path}: {e}"))?;
        let is_code = |line: &&str| {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with("//")
        };
        let is_header = |line: &&str| line.starts_with("//") || line.is_empty();
        let mut source = Self {
            path: path.to_owned(),
            header: text
                .lines()
                .take_while(is_header)
                .collect::<Vec<_>>()
                .join("\n"),
            lines: text.lines().filter(is_code).count(),
            text,
            tokens: Vec::new(),
            test_modules: Vec::new(),
        };
        source.flatten(tokens, false);
        Ok(source)
    }

    /// Where the files of its test modules are, without `.rs`.
    fn test_places(&self) -> Vec<String> {
        let (dir, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let base = match name {
            "mod.rs" | "lib.rs" | "main.rs" => dir.to_owned(),
            _ => self.path.trim_end_matches(".rs").to_owned(),
        };
        let place = |module: &String| format!("{base}/{module}");
        self.test_modules.iter().map(place).collect()
    }

    /// Appends `tokens`, those of groups between their ends.
    fn flatten(&mut self, tokens: TokenStream, is_test: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut test_until = 0;
        for (i, token) in tokens.iter().enumerate() {
            if is_test_attribute(&tokens[i..]) {
                let item = &tokens[i + 2..];
                let (len, module) = item_after_attributes(item);
                test_until = test_until.max(i + 2 + len);
                self.test_modules.extend(module);
            }
            let is_test = is_test || i < test_until;
            self.push(token, is_test);
        }
    }

    fn push(&mut self, token: &TokenTree, is_test: bool) {
        let line = token.span().start().line;
        let mut add = |text: String, line, is_word| {
            self.tokens.push(Token {
                text,
                line,
                is_word,
                is_test,
            });
        };
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                add(open.into(), line, false);
                self.flatten(group.stream(), is_test);
                self.tokens.push(Token {
                    text: close.into(),
                    line: group.span_close().start().line,
                    is_word: false,
                    is_test,
                });
            }
            TokenTree::Ident(word) => add(word.to_string(), line, true),
            TokenTree::Punct(mark) => add(mark.to_string(), line, false),
            TokenTree::Literal(literal) => add(literal.to_string(), line, false),
        }
    }

    /// Iterates over its tokens that are not only for tests, each with its index.
    pub(super) fn in_use(&self) -> impl Iterator<Item = (usize, &Token)> {
        self.tokens.iter().enumerate().filter(|(_, t)| !t.is_test)
    }

    /// The text of the token at `index`, or nothing behind the last.
    pub(super) fn at(&self, index: usize) -> &str {
        self.tokens.get(index).map_or("", |t| &t.text)
    }

    /// The text of the token `back` tokens before `index`, or nothing before the first.
    pub(super) fn before(&self, index: usize, back: usize) -> &str {
        index.checked_sub(back).map_or("", |i| self.at(i))
    }
}

/// Says whether `tokens` begin with `#[cfg(…)]` that holds in tests or on the host alone.
fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    let [TokenTree::Punct(hash), TokenTree::Group(group), ..] = tokens else {
        return false;
    };
    let text = group.stream().to_string().replace(' ', "");
    let is_host = text == "cfg(not(target_os=\"none\"))";
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
    let is_test = text.starts_with("cfg(") && words.contains(&"test") && !words.contains(&"not");
    hash.as_char() == '#' && (is_test || is_host)
}

/// How many tokens the item at the start of `tokens` has, its attributes included, and its name where it is a module in
/// a file of its own.
fn item_after_attributes(tokens: &[TokenTree]) -> (usize, Option<String>) {
    let mut words = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let first = words.first().map_or("", String::as_str);
        let ends_in_a_brace = !matches!(first, "use" | "static" | "let")
            && (first != "const" || words.iter().any(|word| word == "fn"));
        match token {
            TokenTree::Ident(word) if word != "pub" && word != "unsafe" => {
                words.push(word.to_string())
            }
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && ends_in_a_brace => {
                return (i + 1, None);
            }
            TokenTree::Punct(mark) if mark.as_char() == ';' => {
                let module = words.get(1).filter(|_| first == "mod");
                return (i + 1, module.cloned());
            }
            _ => {}
        }
    }
    (tokens.len(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_tests_alone_is_marked() {
        let text = "fn a() {}\n#[cfg(test)]\n#[derive(Debug)]\nstruct B { c: u8 }\n#[cfg(test)]\nmod d;\n#[cfg(not(target_os = \"none\"))]\npub use e::f;\nconst G: u8 = 1;\n#[cfg(not(test))]\nfn h() {}\n";
        let source = Source::new("x/y.rs", text.into()).unwrap();
        let words = source.in_use().filter(|(_, t)| t.is_word);
        let words: Vec<&str> = words.map(|(_, t)| t.text.as_str()).collect();
        let expected = "fn a const G u8 cfg not test fn h";
        assert_eq!(words.join(" "), expected);
        assert_eq!(source.test_places(), ["x/y/d"]);
    }
}
