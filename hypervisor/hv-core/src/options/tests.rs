//! The command line as a whole, and the list in README.md.

use super::*;
use proptest::prelude::*;

fn clean(line: &str) -> Options {
    let (options, warnings) = Options::parse(line);
    assert_eq!(warnings, [], "{line}");
    options
}

#[test]
fn empty_line_gives_the_defaults() {
    assert_eq!(clean(""), Options::default());
}

#[test]
fn the_readmes_grub_line_is_understood() {
    let o = clean("dom0_mem=1G com1=115200,8n1 console=com1 loglvl=info");
    assert_eq!(o.dom0_mem.size, Some(Amount::of_bytes(1 << 30)));
    assert_eq!(o.com1, Serial::COM1);
    assert_eq!(
        o.console,
        Consoles {
            com1: true,
            com2: false,
            vga: false
        }
    );
    assert_eq!(o.loglvl.always, Some(LogLevel::Info));
}

#[test]
fn each_form_of_a_boolean_works() {
    for off in [
        "no-apicv",
        "apicv=off",
        "apicv=no",
        "apicv=false",
        "apicv=0",
        "apicv=disable",
    ] {
        assert!(!clean(off).features.apicv, "{off}");
    }
    for on in [
        "apicv",
        "apicv=on",
        "apicv=yes",
        "apicv=true",
        "apicv=1",
        "apicv=enable",
    ] {
        assert!(
            clean(&std::format!("apicv=off {on}")).features.apicv,
            "{on}"
        );
    }
}

#[test]
fn unknown_and_malformed_options_are_named_and_ignored() {
    let (options, warnings) = Options::parse("foo=1 apicv=maybe dom0_mem=much no-apicv=on bar");
    assert_eq!(options, Options::default());
    let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 5);
    for (text, name) in texts.iter().zip([
        "`foo=1`",
        "`apicv=maybe`",
        "`dom0_mem=much`",
        "`no-apicv=on`",
        "`bar`",
    ]) {
        assert!(text.contains(name) && text.contains("ignored"), "{text}");
    }
}

#[test]
fn what_follows_two_dashes_goes_to_dom0() {
    let o = clean("noreboot -- single  quiet");
    assert!(o.noreboot);
    assert_eq!(o.dom0_append.as_deref(), Some("single  quiet"));
    assert_eq!(clean("-- x").dom0_append.as_deref(), Some("x"));
    assert_eq!(clean("noreboot --").dom0_append, None);
}

#[test]
fn dash_and_underscore_are_the_same_in_names() {
    assert!(clean("sync-console").sync_console);
    assert!(!clean("ept_superpages=off").features.ept_2m);
}

#[test]
fn log_thresholds_have_an_unlimited_and_a_limited_part() {
    let o = clean("loglvl=warning/debug guest_loglvl=none");
    assert!(!o.loglvl.limits(LogLevel::Warning) && o.loglvl.limits(LogLevel::Debug));
    assert!(o.loglvl.shows(LogLevel::Debug));
    assert!(!o.guest_loglvl.shows(LogLevel::Error));
    assert!(clean("loglvl=all").loglvl.shows(LogLevel::Debug));
}

#[test]
fn lists_of_features_are_read() {
    let o = clean("ept=no-exec-sp no-hap_1gb");
    assert_eq!(o.features.exec_sp, Some(false));
    assert!(!o.features.ept_1g && o.features.ept_2m);
}

#[test]
fn counts_of_cpus_are_read() {
    assert_eq!(
        clean("dom0_max_vcpus=2-4").dom0_max_vcpus,
        Some(VcpuCount { min: 2, max: 4 })
    );
    assert_eq!(
        clean("dom0_max_vcpus=3").dom0_max_vcpus,
        Some(VcpuCount { min: 3, max: 3 })
    );
    // one CPU runs guests, whatever is asked for
    assert_eq!(Options::parse("maxcpus=2 nosmp tsc=unstable").1.len(), 3);
    assert_eq!(Options::parse("dom0_max_vcpus=4-2").1.len(), 1);
    assert_eq!(Options::parse("dom0_max_vcpus=0").1.len(), 1);
}

#[test]
fn rate_limits_are_bounded_and_0_is_none() {
    assert_eq!(clean("").sched_ratelimit_us, 1000);
    assert_eq!(clean("sched_ratelimit_us=0").sched_ratelimit_us, 0);
    assert_eq!(clean("sched_ratelimit_us=100").sched_ratelimit_us, 100);
    assert_eq!(
        clean("sched_ratelimit_us=500000").sched_ratelimit_us,
        500_000
    );
    for wrong in ["99", "500001", "-1", "1ms"] {
        let (options, warnings) = Options::parse(&std::format!("sched_ratelimit_us={wrong}"));
        assert_eq!(
            (options.sched_ratelimit_us, warnings.len()),
            (1000, 1),
            "{wrong}"
        );
    }
}

#[test]
fn reboot_methods_are_read() {
    assert_eq!(clean("reboot=acpi").reboot, Some(RebootMethod::Acpi));
    assert_eq!(clean("reboot=p").reboot, Some(RebootMethod::Pci));
    assert_eq!(clean("reboot=P").reboot, Some(RebootMethod::PowerCycle));
    assert_eq!(clean("noreboot=no").reboot, None);
}

#[test]
fn the_table_is_in_order_and_complete() {
    let names: Vec<&str> = OPTION_TABLE.iter().map(|row| row.info.name).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(names, sorted);
    for row in OPTION_TABLE {
        let OptionInfo {
            name,
            form,
            default,
            help,
        } = row.info;
        assert!(
            form.starts_with(name) && !default.is_empty() && !help.is_empty(),
            "{name}"
        );
    }
}

#[test]
fn the_readme_lists_the_options_as_the_table_has_them() {
    let readme = include_str!("../../../../README.md");
    let section = readme.split("\n## Options").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let listed: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let known: Vec<String> = OPTION_TABLE
        .iter()
        .map(|row| readme_line(row.info))
        .collect();
    assert_eq!(
        listed,
        known,
        "the list in README.md is to read:\n{}",
        known.join("\n")
    );
}

fn readme_line(info: OptionInfo) -> String {
    let OptionInfo {
        form,
        default,
        help,
        ..
    } = info;
    // in a table of Markdown a bar ends a cell
    std::format!("| `{}` | {default} | {help} |", form.replace('|', "\\|"))
}

proptest! {
    #[test]
    fn no_line_panics_and_each_bad_word_is_named(line in "\\PC{0,200}") {
        let (_, warnings) = Options::parse(&line);
        for w in warnings {
            prop_assert!(line.contains(&w.option));
        }
    }

    #[test]
    fn no_value_of_a_known_option_panics(row in 0..OPTION_TABLE.len(), value in "[-a-zA-Z0-9,:/%+= ]{0,30}") {
        let _ = Options::parse(&std::format!("{}={value}", OPTION_TABLE[row].info.name));
    }

    #[test]
    fn a_malformed_option_changes_nothing(row in 0..OPTION_TABLE.len(), value in "[a-z0-9,:/]{0,12}") {
        let (options, warnings) = Options::parse(&std::format!("{}={value}", OPTION_TABLE[row].info.name));
        if !warnings.is_empty() {
            prop_assert_eq!(options, Options::default());
        }
    }
}
