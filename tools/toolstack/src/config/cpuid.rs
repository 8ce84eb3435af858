//! Changes of the CPUID policy, in both of the format's syntaxes.
//!
//! By name, one string: `cpuid = "host,avx512f=0,family=6"`. By register, a list:
//! `cpuid = ["1:ecx=xxxx…,edx=…", "7,0:ebx=…"]` with 32 characters a register, bit 31 first.

use super::CpuidRule;
use super::cpuid_names::FIELDS;
use super::lookup::integer;

/// Reads the syntax by name; a name that nobody knows is told to `note`, as Xen does: it may be of a newer CPU.
///
/// # Errors
/// What is wrong.
pub fn parse_cpuid_names(
    text: &str,
    mut note: impl FnMut(String),
) -> Result<Vec<CpuidRule>, String> {
    let mut words = text.split(',').map(str::trim);
    if words.next() != Some("host") {
        return Err("cpuid by names starts with host, as in \"host,avx512f=0\"".into());
    }
    let read = words
        .filter(|word| !word.is_empty())
        .filter_map(|word| by_name(word, &mut note).transpose());
    read.collect()
}

fn by_name(word: &str, note: &mut impl FnMut(String)) -> Result<Option<CpuidRule>, String> {
    let (name, value) = word
        .split_once('=')
        .ok_or_else(|| format!("\"{word}\" is no NAME=VALUE"))?;
    let spelled = name.trim().to_ascii_lowercase().replace(['_', '.'], "-");
    let Some(&(_, leaf, subleaf, register, first, count)) = FIELDS
        .iter()
        .find(|(known, ..)| known.replace('_', "-") == spelled)
    else {
        let hint = super::nearest(&spelled, FIELDS.iter().map(|(known, ..)| *known))
            .map_or_else(String::new, |h| format!("; did you mean {h}?"));
        note(format!("unknown CPUID name \"{name}\" is ignored{hint}"));
        return Ok(None);
    };
    let bits = match spelled.as_str() {
        "family" => family_bits(value.trim()),
        "model" => model_bits(value.trim()),
        _ => field_bits(value.trim(), first, count),
    };
    let bits = bits.ok_or_else(|| {
        format!("{name} takes a number of {count} bit(s), or x, k or s, not \"{value}\"")
    })?;
    Ok(Some(CpuidRule {
        leaf,
        subleaf,
        register,
        bits,
    }))
}

/// Spells a family: of one above 15 the excess is in the extended field, which is 0 otherwise.
fn family_bits(value: &str) -> Option<String> {
    let Some(number) = integer(value).filter(|number| (0..=270).contains(number)) else {
        return field_bits(value, 8, 4).map(|base| merged(&base, &field_bits(value, 20, 8)));
    };
    let base = number.min(15);
    let base_bits = field_bits(&base.to_string(), 8, 4)?;
    let extended = field_bits(&(number - base).to_string(), 20, 8);
    Some(merged(&base_bits, &extended))
}

/// Spells a model: its upper four bits are in the extended field.
fn model_bits(value: &str) -> Option<String> {
    let Some(number) = integer(value).filter(|number| (0..=255).contains(number)) else {
        return field_bits(value, 4, 4).map(|base| merged(&base, &field_bits(value, 16, 4)));
    };
    let low = field_bits(&(number & 15).to_string(), 4, 4)?;
    Some(merged(&low, &field_bits(&(number >> 4).to_string(), 16, 4)))
}

/// Puts two spellings together that touch different bits.
fn merged(one: &str, other: &Option<String>) -> String {
    let other = other.as_deref().unwrap_or(one);
    let both = one.chars().zip(other.chars());
    both.map(|(a, b)| if a == 'x' { b } else { a }).collect()
}

/// Spells 32 characters with the field's value in its place.
fn field_bits(value: &str, first: u32, count: u32) -> Option<String> {
    let choice = match value {
        "x" | "k" | "s" => None,
        _ => {
            let number = integer(value).and_then(|n| u64::try_from(n).ok())?;
            (number < 1 << count).then_some(Some(number))?
        }
    };
    Some(
        (0..32u32)
            .rev()
            .map(
                |bit| match (bit.checked_sub(first).filter(|at| *at < count), choice) {
                    (None, _) => 'x',
                    (Some(_), None) => value.chars().next().unwrap_or('x'),
                    (Some(at), Some(number)) => {
                        if number >> at & 1 == 1 {
                            '1'
                        } else {
                            '0'
                        }
                    }
                },
            )
            .collect(),
    )
}

/// Reads one element of the syntax by register.
///
/// # Errors
/// What is wrong.
pub fn parse_cpuid_registers(text: &str) -> Result<Vec<CpuidRule>, String> {
    let (leaf, registers) = text
        .split_once(':')
        .ok_or_else(|| format!("\"{text}\" is no LEAF[,SUBLEAF]:REGISTER=BITS"))?;
    let number = |part: &str| {
        integer(part)
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| format!("\"{part}\" is no number of a leaf"))
    };
    let (leaf, subleaf) = match leaf.split_once(',') {
        Some((leaf, subleaf)) => (number(leaf)?, Some(number(subleaf)?)),
        None => (number(leaf)?, None),
    };
    registers
        .split(',')
        .map(str::trim)
        .map(|part| {
            let (name, bits) = part
                .split_once('=')
                .ok_or_else(|| format!("\"{part}\" is no REGISTER=BITS"))?;
            let register = ["eax", "ebx", "ecx", "edx"]
                .iter()
                .position(|known| *known == name)
                .ok_or_else(|| format!("\"{name}\" is no register: eax, ebx, ecx or edx"))?;
            let fits = bits.len() == 32
                && bits
                    .bytes()
                    .all(|c| matches!(c, b'0' | b'1' | b'x' | b'k' | b's'));
            fits.then(|| CpuidRule {
                leaf,
                subleaf,
                register,
                bits: bits.to_owned(),
            })
            .ok_or_else(|| format!("{name} takes 32 characters of 0, 1, x, k, s, not \"{bits}\""))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bits_in_their_place() {
        let rules = parse_cpuid_names("host,tm=0,sse4.1=k,family=6,avx512f=x", |_| ()).unwrap();
        assert_eq!(
            (rules[0].leaf, rules[0].register, rules[0].apply(!0, !0)),
            (1, 3, !(1 << 29))
        );
        assert_eq!(rules[1].bits.as_bytes()[31 - 19], b'k');
        assert_eq!(rules[2].apply(0, 0), 6 << 8);
        assert_eq!((rules[3].leaf, rules[3].subleaf), (7, Some(0)));
    }

    #[test]
    fn family_and_model_are_in_two_fields_each() {
        let bits = |text: &str| {
            let rules = parse_cpuid_names(&format!("host,{text}"), |_| ()).unwrap();
            rules[0].bits.clone()
        };
        // as libxl spells them
        assert_eq!(bits("family=6"), "xxxx00000000xxxxxxxx0110xxxxxxxx");
        assert_eq!(bits("family=23"), "xxxx00001000xxxxxxxx1111xxxxxxxx");
        assert_eq!(bits("model=0x2a"), "xxxxxxxxxxxx0010xxxxxxxx1010xxxx");
        assert_eq!(bits("family=k"), "xxxxkkkkkkkkxxxxxxxxkkkkxxxxxxxx");
        assert!(parse_cpuid_names("host,family=300", |_| ()).is_err());
    }

    #[test]
    fn a_name_that_nobody_knows_is_noted() {
        let mut notes = Vec::new();
        let text = "host,foo=1,avx512ff=0,tm=0";
        let rules = parse_cpuid_names(text, |note| notes.push(note)).unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(
            notes,
            [
                "unknown CPUID name \"foo\" is ignored",
                "unknown CPUID name \"avx512ff\" is ignored; did you mean avx512f?",
            ]
        );
    }

    #[test]
    fn registers_are_read_bit_by_bit() {
        let bits = "x".repeat(30) + "01";
        let rules = parse_cpuid_registers(&format!("7,0:ebx={bits},edx={bits}")).unwrap();
        assert_eq!(rules.len(), 2);
        assert_eq!(
            (rules[1].leaf, rules[1].subleaf, rules[1].register),
            (7, Some(0), 3)
        );
        assert_eq!(rules[0].apply(0b10, 0), 0b01);
        assert_eq!(
            parse_cpuid_registers(&format!("0x80000001:ecx={bits}")).unwrap()[0].leaf,
            0x8000_0001
        );
    }

    #[test]
    fn wrong_policies_say_what_is_wrong() {
        for (text, what) in [
            ("tm=0", "starts with host"),
            ("host,tm=2", "takes a number"),
            ("host,tm", "NAME=VALUE"),
        ] {
            assert!(
                parse_cpuid_names(text, |_| ()).unwrap_err().contains(what),
                "{text}"
            );
        }
        for text in ["1", "1:efx=0", "1:eax=01", "z:eax=1", "1:eax"] {
            assert!(parse_cpuid_registers(text).is_err(), "{text}");
        }
    }
}
