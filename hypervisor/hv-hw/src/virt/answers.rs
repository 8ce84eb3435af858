//! What becomes of each kind of VM exit that a vendor's manual defines: handled, answered with #UD, or why it cannot
//! be.
//!
//! `vtx::reasons` and `svm::exit_codes` are such tables.

/// What becomes of an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Handled,
    /// The guest is not offered the instruction: #UD.
    Undefined,
    /// It cannot happen, because …: where it does all the same, the domain dies.
    Never(&'static str),
}

/// A kind of exit, or several in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// The first and the last number.
    pub(super) span: (u32, u32),
    /// Its name in the manual.
    pub(super) name: &'static str,
    pub(super) answer: Answer,
}

impl Row {
    fn has(&self, number: u32) -> bool {
        (self.span.0..=self.span.1).contains(&number)
    }
}

/// Declares a table: constants for those that are decoded by name, and the table of all.
macro_rules! answers {
    (const $table:ident; $($constant:ident = $number:literal $(to $last:literal)?, $name:literal, $answer:expr;)*) => {
        $(
            #[doc = $name]
            pub(super) const $constant: u32 = $number;
        )*
        /// The table.
        pub(super) const $table: &[$crate::virt::answers::Row] = &[
            $($crate::virt::answers::Row {
                span: $crate::virt::answers::span(&[$constant $(, $last)?]),
                name: $name,
                answer: $answer,
            },)*
        ];
    };
}
pub(super) use answers;

/// The first and the last of `numbers`, of which there is one at least.
pub(super) const fn span(numbers: &[u32]) -> (u32, u32) {
    (numbers[0], numbers[numbers.len() - 1])
}

/// What becomes of an exit of kind `number`.
pub(super) fn answer(table: &[Row], number: u32) -> Answer {
    let row = table.iter().find(|row| row.has(number));
    row.map_or(Answer::Never("no CPU has it yet"), |row| row.answer)
}

/// What the number says, for whoever reads the log: the exit's name, and why it should not have come.
pub(super) fn describe(table: &[Row], number: u32) -> (&'static str, &'static str) {
    let row = table.iter().find(|row| row.has(number));
    row.map_or(("unknown", ""), |row| match row.answer {
        Answer::Never(why) => (row.name, why),
        Answer::Handled | Answer::Undefined => (row.name, ""),
    })
}
