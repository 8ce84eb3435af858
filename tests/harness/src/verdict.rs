//! What tests print, and what it means.
//!
//! A test kernel prints `--- test NAME: Success|Skip|Error|Failure[: text]` a test, and `--- done` when it has run them
//! all: without that line whatever it printed is not enough. A Linux scenario prints `VERDICT NAME PASS|FAIL [text]`.

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The test's name.
    pub name: String,
    /// Its result.
    pub result: TestResult,
    /// What it said about it.
    pub text: String,
}

/// The four verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestResult {
    /// Works.
    Success,
    /// Not possible on this machine.
    Skip,
    /// The test itself broke.
    Error,
    /// What was tested is wrong.
    Failure,
}

/// The line that ends a test kernel's run.
pub const DONE: &str = "--- done";

/// Returns the verdicts in a test kernel's output, in order.
#[must_use]
pub fn of_kernel(text: &str) -> Vec<Verdict> {
    text.lines().filter_map(kernel_line).collect()
}

fn kernel_line(line: &str) -> Option<Verdict> {
    // The hypervisor may put a domain's name before the guest's words.
    let (_, rest) = line.split_once("--- test ")?;
    let (name, rest) = rest.split_once(": ")?;
    let (word, text) = rest.split_once(':').unwrap_or((rest, ""));
    let result = match word.trim() {
        "Success" => TestResult::Success,
        "Skip" => TestResult::Skip,
        "Error" => TestResult::Error,
        "Failure" => TestResult::Failure,
        _ => return None,
    };
    Some(Verdict {
        name: name.to_owned(),
        result,
        text: text.trim().to_owned(),
    })
}

/// Returns the verdicts in a Linux scenario's output, in order.
#[must_use]
pub fn of_linux(text: &str) -> Vec<Verdict> {
    text.lines().filter_map(linux_line).collect()
}

fn linux_line(line: &str) -> Option<Verdict> {
    let (_, rest) = line.split_once("VERDICT ")?;
    let mut words = rest.splitn(3, ' ');
    let name = words.next()?.to_owned();
    let result = match words.next()?.trim() {
        "PASS" => TestResult::Success,
        "FAIL" => TestResult::Failure,
        _ => return None,
    };
    let text = words.next().unwrap_or_default().trim().to_owned();
    Some(Verdict { name, result, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_of_a_kernel_are_read_with_and_without_text() {
        let text = "noise\n(d0) --- test cpuid: Success\n--- test msr: Failure: 0x10 did not fault: odd\n--- done\n";
        let got = of_kernel(text);
        assert_eq!(got.len(), 2);
        assert_eq!(
            (got[0].name.as_str(), got[0].result),
            ("cpuid", TestResult::Success)
        );
        assert_eq!(
            (got[1].result, got[1].text.as_str()),
            (TestResult::Failure, "0x10 did not fault: odd")
        );
    }

    #[test]
    fn a_torn_line_is_no_verdict() {
        assert!(of_kernel("--- test cpuid: Suc\n--- test").is_empty());
        assert!(of_linux("VERDICT disk PA").is_empty());
    }

    #[test]
    fn verdicts_of_a_scenario_are_read() {
        let got = of_linux("VERDICT disk PASS\r\nVERDICT net FAIL no lease\n");
        assert_eq!(got[0].result, TestResult::Success);
        assert_eq!(
            (got[1].result, got[1].text.as_str()),
            (TestResult::Failure, "no lease")
        );
    }
}
