//! Nothing in the core is there once for the program: what there is once is there once a machine (`once_a_machine!`),
//! so that tests have several machines in one process.

use super::source::Source;

/// Where the rule holds: the rules, which have no state, and the core.
const STATELESS: [&str; 2] = ["hypervisor/src/", "hypervisor/hv-core/src/"];

/// Where it holds for tests too, which run side by side in one process.
const ITS_TESTS: &str = "hypervisor/src/";

/// Finds statics.
pub(super) fn breaches(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .filter(|source| STATELESS.iter().any(|place| source.path.starts_with(place)))
        .flat_map(|source| {
            let tokens = source.tokens.iter().enumerate();
            tokens
                .filter(|(_, token)| !token.is_test || source.path.starts_with(ITS_TESTS))
                .filter(|(i, token)| token.text == "static" && source.before(*i, 1) != "'")
                .map(|(i, token)| {
                    format!(
                        "{}:{}: static `{}`: what there is once a machine is found by once_a_machine!",
                        source.path,
                        token.line,
                        source.at(i + 1)
                    )
                })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        breaches(&[Source::new(path, text.into()).unwrap()])
    }

    #[test]
    fn static_in_the_core_is_found_also_inside_a_function() {
        let text = "fn f() {\n    static COUNT: AtomicU32 = AtomicU32::new(0);\n}\n";
        let found_inside = found("hypervisor/src/domain/share.rs", text);
        assert!(
            found_inside.len() == 1
                && found_inside[0].starts_with("hypervisor/src/domain/share.rs:2: static `COUNT`"),
            "{found_inside:?}"
        );
        assert_eq!(
            found("hypervisor/hv-core/src/a.rs", "pub static A: u8 = 0;").len(),
            1
        );
    }

    #[test]
    fn lifetimes_tests_and_other_crates_are_not() {
        let lifetime =
            "fn f() -> &'static str { \"static\" }\nonce_a_machine! { fn g() -> T = T::new(); }";
        assert_eq!(found("hypervisor/src/a.rs", lifetime), [""; 0]);
        let in_test = "#[cfg(test)]\nmod tests {\n    static A: u8 = 0;\n}\n";
        assert_eq!(found("hypervisor/hv-core/src/a.rs", in_test), [""; 0]);
        assert_eq!(found("hypervisor/src/a.rs", in_test).len(), 1);
        assert_eq!(
            found("hypervisor/hv-hw/src/a.rs", "static A: u8 = 0;"),
            [""; 0]
        );
    }
}
