//! What is undone when a later step fails, in reverse order.

use crate::{Error, Toolstack};

type Action = Box<dyn FnOnce(&Toolstack) -> crate::Result<()>>;

/// The undos of the steps done so far. Dropped without [`Undo::done`], it undoes nothing: see [`Undo::roll_back`].
#[derive(Default)]
pub(crate) struct Undo {
    actions: Vec<(&'static str, Action)>,
}

impl Undo {
    /// Remembers how to undo the step just done.
    pub(crate) fn push(
        &mut self,
        what: &'static str,
        action: impl FnOnce(&Toolstack) -> crate::Result<()> + 'static,
    ) {
        self.actions.push((what, Box::new(action)));
    }

    /// Undoes all steps, the last one first; returns what could not be undone.
    pub(crate) fn roll_back(mut self, toolstack: &Toolstack) -> Vec<Error> {
        let mut failed = Vec::new();
        while let Some((what, action)) = self.actions.pop() {
            if let Err(error) = action(toolstack) {
                failed.push(error.during(format!("undoing: {what}")));
            }
        }
        failed
    }
}
