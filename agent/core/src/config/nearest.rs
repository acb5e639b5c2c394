//! "Did you mean …": the known name nearest to an unknown one.

use alloc::{string::String, vec::Vec};

/// The nearest of `known` if it is near enough to be meant: at most a third of its letters differ.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let by_distance = known.into_iter().map(|candidate| (distance(name, candidate), candidate));
    let (edits, candidate) = by_distance.min()?;
    (edits <= candidate.chars().count().div_ceil(3)).then_some(candidate)
}

/// The names between backticks in a message of serde, after the first.
pub(super) fn listed(message: &str) -> Vec<String> {
    message.split('`').skip(3).step_by(2).map(String::from).collect()
}

/// Levenshtein's distance: insertions, deletions and substitutions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = core::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_a_stranger_is_not() {
        assert_eq!(nearest("percnt", ["absolute", "percent"]), Some("percent"));
        assert_eq!(nearest("xyz", ["absolute", "percent"]), None);
        assert_eq!(listed("unknown field `a`, expected one of `b`, `c`"), ["b", "c"]);
    }
}
