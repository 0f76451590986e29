//! The bugs that are hunted for in every check of a change, each with a small budget: a table of
//! lines `name seeds`, with remarks after `#`.

use std::collections::BTreeMap;

/// Budgets by name.
///
/// # Errors
/// The line that is wrong, and why.
pub fn parse(text: &str) -> Result<BTreeMap<String, u64>, String> {
    let mut budgets = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let wrong = |what: &str| format!("line {number}: {what}: {line}");
        let (name, seeds) =
            content.split_once(char::is_whitespace).ok_or_else(|| wrong("no budget"))?;
        let seeds = seeds.trim().parse().ok().filter(|seeds| *seeds > 0);
        let seeds = seeds.ok_or_else(|| wrong("no number of seeds"))?;
        if budgets.insert(name.to_owned(), seeds).is_some() {
            return Err(wrong("the name comes twice"));
        }
    }
    Ok(budgets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_and_empty_lines_are_no_budgets() {
        let budgets = parse("# quick\n\nlocal-read 4 # of 1\nbatch-append\t12\n").expect("lawful");
        let expected = [("batch-append".to_owned(), 12), ("local-read".to_owned(), 4)];
        assert_eq!(budgets.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_wrong_line_is_told() {
        for (text, told) in
            [("a", "line 1: no budget"), ("a 1\na 2", "line 2: the name"), ("a 0", "no number")]
        {
            let error = parse(text).expect_err(told);
            assert!(error.contains(told), "{error}");
        }
    }
}
