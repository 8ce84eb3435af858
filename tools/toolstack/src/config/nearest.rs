//! The name that a misspelt word most likely means.

/// Gives the name that a misspelt word most likely means: two edits away at most, one if the word is short, where two
/// letters in the wrong order are one edit; or the only name that it begins.
pub fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str> + Clone) -> Option<&'n str> {
    let length = word.chars().count();
    if length < 3 {
        return None;
    }
    let most = if length < 6 { 1 } else { 2 };
    let edits_of = |name: &'n str| {
        (name.chars().count().abs_diff(length) <= most).then(|| (edits(word, name), name))
    };
    // Of two that are as near, the one with the same letters is meant.
    let by_edits = names
        .clone()
        .filter_map(edits_of)
        .filter(|(edits, name)| *edits <= most && *edits < name.len())
        .min_by_key(|(edits, name)| (*edits, letters(name) != letters(word)));
    by_edits
        .map(|(_, name)| name)
        .or_else(|| only_one(names.filter(|name| name.starts_with(word))))
}

fn only_one<'n>(mut names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let first = names.next()?;
    names.next().is_none().then_some(first)
}

fn letters(word: &str) -> Vec<char> {
    let mut letters: Vec<_> = word.chars().collect();
    letters.sort_unstable();
    letters
}

/// Counts edits: a letter more, less, another, or two swapped (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<_>, Vec<_>) = (a.chars().collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut cells: Vec<usize> = (0..(a.len() + 1) * width)
        .map(|at| if at < width { at } else { at / width })
        .collect();
    let cell = |cells: &[usize], i: usize, j: usize| cells.get(i * width + j).copied().unwrap_or(0);
    for (i, ca) in a.iter().enumerate() {
        for (j, cb) in b.iter().enumerate() {
            let mut best = (cell(&cells, i, j) + usize::from(ca != cb))
                .min(cell(&cells, i, j + 1) + 1)
                .min(cell(&cells, i + 1, j) + 1);
            let is_swap = i > 0 && j > 0 && a.get(i - 1) == Some(cb) && b.get(j - 1) == Some(ca);
            if is_swap {
                best = best.min(cell(&cells, i - 1, j - 1) + 1);
            }
            if let Some(cell) = cells.get_mut((i + 1) * width + j + 1) {
                *cell = best;
            }
        }
    }
    cell(&cells, a.len(), b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, count) in [
            ("kitten", "sitting", 3),
            ("vfi", "vif", 1),
            ("", "ab", 2),
            ("abc", "abc", 0),
            ("ca", "abc", 3),
            ("memroy", "memory", 1),
        ] {
            assert_eq!((edits(a, b), edits(b, a)), (count, count), "{a} {b}");
        }
    }

    #[test]
    fn a_misspelt_word_finds_its_neighbour() {
        let names = [
            "memory", "maxmem", "vcpus", "vfb", "vif", "hap", "boot", "name", "kernel", "pool",
        ];
        for (word, name) in [
            ("memroy", Some("memory")),
            ("memmory", Some("memory")),
            ("vcpu", Some("vcpus")),
            ("vfi", Some("vif")),
            ("nmae", Some("name")),
            ("kernal", Some("kernel")),
            ("mem", Some("memory")),
            ("dhcp", None),
            ("foo", None),
            ("banana", None),
            ("ip", None),
        ] {
            assert_eq!(nearest(word, names.into_iter()), name, "{word}");
        }
    }
}
