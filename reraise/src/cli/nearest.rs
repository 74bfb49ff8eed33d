//! What somebody may have meant who mistyped a word.

/// The candidate that is most like the word, if one is.
pub(crate) fn nearest<'a>(word: &str, all: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let distance = |one: &str| strsim::damerau_levenshtein(&one.to_lowercase(), &word);
    let near = all.into_iter().map(|one| (distance(one), one)).min_by_key(|(far, _)| *far);
    // One letter in three may be wrong.
    near.filter(|(far, one)| *far <= one.chars().count().div_ceil(3)).map(|(_, one)| one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_found_and_what_is_far_is_not() {
        let all = ["start", "stop", "status", "restart", "web-1", "web-2"];
        for (word, expected) in [
            ("strat", Some("start")),
            ("START", Some("start")),
            ("stpo", Some("stop")),
            ("web1", Some("web-1")),
            ("restrt", Some("restart")),
            ("dance", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, all), expected, "{word}");
        }
        assert_eq!(nearest("start", []), None);
    }
}
