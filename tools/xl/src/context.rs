//! What verbs share: the global flags, and the ways to the hypervisor and to xenstore, opened when first used.

use std::cell::OnceCell;

use toolstack::domain::DomainInfo;
use toolstack::{Hyper, Lock, Toolstack};

use crate::failure::{Failure, no_domain};
use crate::output;

/// Flags before the verb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    /// `-v`, as often as given.
    pub verbose: u8,
    /// `-N`: do nothing, say what would be done.
    pub dry_run: bool,
    /// `-t`: a carriage return before each message, for progress lines.
    pub carriage_return: bool,
    /// `-f`: go on where a check says no.
    pub force: bool,
    /// `-T`: a time and the process id before each message.
    pub timestamps: bool,
}

/// What a verb works with.
#[derive(Debug, Default)]
pub struct Context {
    /// Flags before the verb.
    pub globals: Globals,
    toolstack: OnceCell<Toolstack>,
    hyper: OnceCell<Hyper>,
}

impl Context {
    /// Makes one with nothing opened yet.
    pub fn new(globals: Globals) -> Self {
        Self {
            globals,
            ..Self::default()
        }
    }

    /// Uses a toolstack that is open already.
    pub fn over(toolstack: Toolstack) -> Self {
        Self {
            toolstack: OnceCell::from(toolstack),
            ..Self::default()
        }
    }

    /// Gives the toolstack: hypervisor and xenstore.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn toolstack(&self) -> Result<&Toolstack, Failure> {
        if let Some(open) = self.toolstack.get() {
            return Ok(open);
        }
        let open = Toolstack::open()?;
        Ok(self.toolstack.get_or_init(|| open))
    }

    /// Takes the host's lock; where that takes longer than a second, says so.
    ///
    /// # Errors
    /// Its file cannot be made, or xenstored or the hypervisor is not there.
    pub fn lock(&self) -> Result<Lock, Failure> {
        let mut note = |text: &str| output::note(&format!("xl: {text}"));
        Ok(self.toolstack()?.lock(&mut note)?)
    }

    /// Gives the hypervisor alone, for verbs that work without xenstored.
    ///
    /// # Errors
    /// It is not there: no dom0.
    pub fn hyper(&self) -> Result<&Hyper, Failure> {
        if let Some(open) = self.toolstack.get() {
            return Ok(&open.hyper);
        }
        if let Some(open) = self.hyper.get() {
            return Ok(open);
        }
        let open = Hyper::open().map_err(toolstack::Error::from)?;
        Ok(self.hyper.get_or_init(|| open))
    }

    /// Finds a domain by name, id or UUID.
    ///
    /// # Errors
    /// There is none, in xl's words.
    pub fn find(&self, text: &str) -> Result<DomainInfo, Failure> {
        self.toolstack()?
            .find(text)
            .map_err(|error| match error.root() {
                toolstack::Error::NoDomain(_) => no_domain(text),
                _ => error.into(),
            })
    }

    /// Finds the domains that a command line names; all where it names none.
    ///
    /// # Errors
    /// As for [`Context::find`], or the hypervisor's.
    pub fn named_or_all(&self, names: &[String]) -> Result<Vec<DomainInfo>, Failure> {
        if names.is_empty() {
            return Ok(self.toolstack()?.list()?);
        }
        names.iter().map(|name| self.find(name)).collect()
    }

    /// Gives the number of CPUs that masks cover.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn nr_cpus(&self) -> Result<u32, Failure> {
        Ok(self.hyper()?.physinfo()?.max_cpu_id + 1)
    }
}

/// Gives a domain's name as texts show it.
pub fn shown_name(domain: &DomainInfo) -> &str {
    domain.name.as_deref().unwrap_or("(null)")
}
