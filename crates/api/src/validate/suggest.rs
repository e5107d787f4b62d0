//! "Did you mean …?"

/// The candidate that `given` is most probably a slip for, if any is close enough.
pub(super) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Far longer than any field name; keeps the cost of hostile names down.
    if given.len() > 100 {
        return None;
    }
    let allowed = (given.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(&given.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Damerau and Levenshtein's distance (optimal string alignment): a swap of neighbours counts once.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let change = last[j] + usize::from(a[i] != b[j]);
            let mut best = change.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        (before, last) = (last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let fields = ["matches", "backendRefs", "filters", "name", "port"];
        assert_eq!(nearest("matchs", fields), Some("matches"));
        assert_eq!(nearest("backendrefs", fields), Some("backendRefs"));
        assert_eq!(nearest("fliters", fields), Some("filters"));
        assert_eq!(nearest("prot", fields), Some("port"));
        assert_eq!(nearest("hostnames", fields), None);
        assert_eq!(nearest("", fields), None);
        assert_eq!(nearest("rty", fields), None);
    }
}
