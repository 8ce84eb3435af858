//! Why a verb failed: what goes to stderr, and the exit code.

use toolstack::Error;

/// The end of a verb that did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    /// What is printed on stderr; nothing if empty.
    pub text: String,
    /// What is printed on stdout instead, as help is.
    pub to_stdout: bool,
    /// Exit code: 1; 2 where the words of the command line are wrong, 3 where `create` cannot read its file, or makes
    /// no domain of it.
    pub code: u8,
    /// The parts of `text` where it has several: what is wrong in a file, one each.
    pub details: Vec<String>,
}

/// Exit code where a verb's words are wrong: xl's.
const USAGE: u8 = 2;

/// Exit code where a configuration cannot be read, or no domain comes of it: libxl's ERROR_FAIL, as Xen's xl has it.
pub const NOT_CREATED: u8 = 3;

/// What a verb ends with.
pub type Outcome = Result<(), Failure>;

impl Failure {
    /// Fails with exit code 1.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            to_stdout: false,
            code: 1,
            details: Vec::new(),
        }
    }

    /// Fails because of a verb's words.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::with_code(text, USAGE)
    }

    /// Fails because of several things.
    pub fn of_messages(messages: &[String]) -> Self {
        Self {
            details: messages.to_vec(),
            ..Self::new(messages.join("\n"))
        }
    }

    /// Fails with an exit code of its own.
    pub fn with_code(text: impl Into<String>, code: u8) -> Self {
        Self {
            code,
            ..Self::new(text)
        }
    }

    /// Ends after clap's message: help goes to stdout and is no failure, all else exits 2 as in xl.
    pub fn from_clap(error: &clap::Error) -> Self {
        let is_error = error.use_stderr();
        Self {
            text: without_tip(&error.render().to_string()),
            to_stdout: !is_error,
            code: if is_error { USAGE } else { 0 },
            details: Vec::new(),
        }
    }
}

/// Leaves out clap's advice to pass an unknown option as a value: no verb takes such a value.
fn without_tip(text: &str) -> String {
    let lines = text.lines().filter(|line| {
        let line = line.trim_start();
        !(line.starts_with("tip: to pass ") && line.contains(" as a value"))
    });
    let mut text = lines.collect::<Vec<_>>().join("\n");
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text + "\n"
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.root() {
            Error::NoDomain(name) => no_domain(name),
            _ => Self::new(format!("xl: {}", error.chain())),
        }
    }
}

impl From<toolstack::hypercall::HypercallError> for Failure {
    fn from(error: toolstack::hypercall::HypercallError) -> Self {
        Error::from(error).into()
    }
}

impl From<xenstore::Error> for Failure {
    fn from(error: xenstore::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(format!("xl: {error}"))
    }
}

/// Says that there is no such domain, in xl's words: scripts look for them.
pub fn no_domain(name: &str) -> Failure {
    if !name.is_empty() && name.bytes().all(|c| c.is_ascii_digit()) {
        Failure::new(format!("Error: Domain '{name}' does not exist."))
    } else {
        Failure::new(format!("{name} is an invalid domain identifier (rc=-6)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_domain_is_told_in_xl_words() {
        let failure = Failure::from(Error::NoDomain("nosuchdom".into()));
        assert_eq!(
            (failure.text.as_str(), failure.code),
            ("nosuchdom is an invalid domain identifier (rc=-6)", 1)
        );
        assert_eq!(no_domain("17").text, "Error: Domain '17' does not exist.");
    }

    #[test]
    fn an_error_is_told_down_to_its_reason() {
        let error = Error::Refused("it is in use".into()).during("attaching disk xvda");
        assert_eq!(
            Failure::from(error).text,
            "xl: attaching disk xvda: it is in use"
        );
    }
}
