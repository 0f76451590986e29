//! `regressions`: runs that found something once.
//!
//! A line of the file is `seed scenario nodes seconds # what it found`; `-` stands for what the
//! seed draws. Empty lines and lines that begin with `#` are for people. A seed is worth its line
//! as long as the simulator draws the same from it; the test that shows the bug is elsewhere.

use super::arguments::Request;
use super::source;
use crate::plan::Overrides;

/// Reads the file's text: requests, one for each line that holds one.
///
/// # Errors
/// Which line is none, and why.
pub fn parse(text: &str) -> Result<Vec<(u64, Request)>, String> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    let lines = lines.map(|(number, line)| (number, line.split('#').next().unwrap_or("").trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty());
    lines
        .map(|(number, line)| request(line).map_err(|error| format!("line {number}: {error}")))
        .collect()
}

fn request(line: &str) -> Result<(u64, Request), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [seed, scenario, nodes, seconds] = words[..] else {
        return Err(format!("`{line}` is not `seed scenario nodes seconds`"));
    };
    let seed = seed.parse().map_err(|_| format!("`{seed}` is no seed"))?;
    if !source::scenarios().iter().any(|(name, _)| *name == scenario) {
        return Err(format!("there is no scenario `{scenario}`"));
    }
    let nodes = optional(nodes, "number of nodes")?;
    let seconds: Option<u64> = optional(seconds, "number of seconds")?;
    let time_ms = seconds.map(|seconds| seconds * 1_000);
    let overrides = Overrides { nodes, time_ms, profile: None };
    Ok((seed, Request { scenario: scenario.to_owned(), overrides }))
}

/// A number, or `-`.
fn optional<T: std::str::FromStr>(word: &str, what: &str) -> Result<Option<T>, String> {
    match word {
        "-" => Ok(None),
        _ => word.parse().map(Some).map_err(|_| format!("`{word}` is no {what}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_to_run_and_why() {
        let found = parse("# seeds\n\n17 nightly 3 60 # lost a write\n18 nightly - -\n").unwrap();
        let [(17, one), (18, other)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((one.overrides.nodes, one.overrides.time_ms), (Some(3), Some(60_000)));
        assert_eq!((other.overrides.nodes, other.overrides.time_ms), (None, None));
        assert_eq!(one.scenario, "nightly");
    }

    #[test]
    fn a_line_that_says_something_else_is_told_by_its_number() {
        for (line, problem) in [
            ("17 nightly 3", "line 2: `17 nightly 3` is not"),
            ("x nightly 3 60", "line 2: `x` is no seed"),
            ("17 nihgtly 3 60", "line 2: there is no scenario `nihgtly`"),
            ("17 nightly three 60", "line 2: `three` is no number of nodes"),
        ] {
            let error = parse(&format!("\n{line} # why")).unwrap_err();
            assert!(error.starts_with(problem), "{error}");
        }
    }
}
