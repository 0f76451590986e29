//! Planted bugs as files: a header for people, then a unified diff.
//!
//! ```text
//! Mutant: ack-before-fsync           the name by which it is chosen; `none` for the selector
//! Origin: etcd #14370                short, for the table
//! History: what happened to whom, and when
//! Bug: what is wrong here
//! Seen: what has to happen for it to show, and how it shows
//!
//! diff --git a/src/... b/src/...
//! ```
//!
//! A field goes on in lines that begin with two spaces. Patches are applied here rather than by
//! another program, so that the answer to one that no longer fits is the same everywhere: which
//! patch, which hunk, and what it looked for. A hunk may have moved, but its lines and those
//! around it must stand somewhere exactly as they were; of several such places the nearest to
//! where earlier hunks of the file have moved counts.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The name of the patch that plants nothing.
pub const NONE: &str = "none";

/// A planted bug.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patch {
    /// The file's name.
    pub file: String,
    pub name: String,
    pub origin: String,
    pub bug: String,
    pub changes: Vec<FileChange>,
}

/// What a patch does to one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileChange {
    pub path: String,
    /// There was no such file before.
    pub creates: bool,
    pub hunks: Vec<Hunk>,
}

/// A place and what becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hunk {
    /// Its first line, which says where it is.
    head: String,
    /// Index of the first old line, from 0.
    place: usize,
    old: Vec<String>,
    new: Vec<String>,
}

/// Files by path, as lines without their ends.
pub type Files = BTreeMap<String, Vec<String>>;

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    /// What is wrong with it, in words, without the file's name.
    pub fn parse(file: &str, text: &str) -> Result<Patch, String> {
        let lines: Vec<&str> = text.lines().collect();
        let head = lines.iter().position(|line| line.starts_with("diff --git "));
        let (head, diff) = lines.split_at(head.ok_or("there is no diff in it")?);
        let mut fields = header(head)?;
        let mut field = |name: &str| {
            fields.remove(name).filter(|text| !text.is_empty()).ok_or(format!("no field {name}"))
        };
        let (name, origin, bug) = (field("Mutant")?, field("Origin")?, field("Bug")?);
        field("Seen")?;
        let _ = field("History");
        if let Some(name) = fields.keys().next() {
            return Err(format!("a field {name} that nobody knows"));
        }
        let changes = parse_diff(diff)?;
        let patch = Patch { file: file.to_owned(), name, origin, bug, changes };
        if patch.name != NONE && !patch.asks_for_itself() {
            return Err(format!("nothing in it asks for mutant::on(\"{}\")", patch.name));
        }
        Ok(patch)
    }

    /// Whether what it adds is behind the switch of its name.
    fn asks_for_itself(&self) -> bool {
        let asks = format!("mutant::on(\"{}\")", self.name);
        let hunks = self.changes.iter().flat_map(|change| &change.hunks);
        hunks.flat_map(|hunk| &hunk.new).any(|line| line.contains(&asks))
    }

    /// Changes the files.
    ///
    /// # Errors
    /// The hunk that does not fit, and why.
    pub fn apply(&self, files: &mut Files) -> Result<(), String> {
        for change in &self.changes {
            let refused = |what: String| format!("{}: {}: {what}", self.file, change.path);
            if change.creates {
                let lines = change.hunks.iter().flat_map(|hunk| hunk.new.clone()).collect();
                if files.insert(change.path.clone(), lines).is_some() {
                    return Err(refused("it is there already".into()));
                }
                continue;
            }
            let Some(lines) = files.get_mut(&change.path) else {
                return Err(refused("there is no such file".into()));
            };
            apply_hunks(lines, &change.hunks).map_err(refused)?;
        }
        Ok(())
    }
}

/// The fields before the diff.
fn header(lines: &[&str]) -> Result<BTreeMap<String, String>, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for line in lines.iter().filter(|line| !line.is_empty()) {
        if let Some(more) = line.strip_prefix("  ") {
            let name: &String = last.as_ref().ok_or("the first line goes on from nothing")?;
            let text = fields.get_mut(name).expect("it was put there");
            text.push(' ');
            text.push_str(more.trim());
            continue;
        }
        let (name, text) = line.split_once(':').ok_or(format!("no field: {line}"))?;
        if fields.insert(name.to_owned(), text.trim().to_owned()).is_some() {
            return Err(format!("two fields {name}"));
        }
        last = Some(name.to_owned());
    }
    Ok(fields)
}

fn parse_diff(lines: &[&str]) -> Result<Vec<FileChange>, String> {
    let mut changes: Vec<FileChange> = Vec::new();
    let mut creates = false;
    let mut lines = lines.iter().peekable();
    while let Some(line) = lines.next() {
        if let Some(old) = line.strip_prefix("--- ") {
            creates = old == "/dev/null";
        } else if let Some(new) = line.strip_prefix("+++ ") {
            let path = new.strip_prefix("b/").ok_or("it deletes or misnames a file")?.to_owned();
            changes.push(FileChange { path, creates, hunks: Vec::new() });
        } else if line.starts_with("@@ ") {
            let change = changes.last_mut().ok_or("a hunk of no file")?;
            let mut hunk = Hunk::head(line)?;
            while let Some(line) = lines.next_if(|line| !is_head(line)) {
                hunk.add(line)?;
            }
            hunk.check()?;
            change.hunks.push(hunk);
        }
    }
    if changes.iter().all(|change| change.hunks.is_empty()) {
        return Err("it changes nothing".into());
    }
    Ok(changes)
}

fn is_head(line: &str) -> bool {
    line.starts_with("@@ ") || line.starts_with("diff --git ")
}

impl Hunk {
    /// `@@ -12,7 +12,9 @@ some text`.
    fn head(line: &str) -> Result<Hunk, String> {
        let wrong = || format!("no head of a hunk: {line}");
        let ranges = line.strip_prefix("@@ -").and_then(|rest| rest.split_once(" @@"));
        let (old, _) = ranges.and_then(|(ranges, _)| ranges.split_once(" +")).ok_or_else(wrong)?;
        let first = old.split_once(',').map_or(old, |(first, _)| first);
        let first: usize = first.parse().map_err(|_| wrong())?;
        // An empty range names the line before it.
        let place = first.saturating_sub(1);
        Ok(Hunk { head: line.to_owned(), place, old: Vec::new(), new: Vec::new() })
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        // An editor may have cut the blank of an empty line.
        let (kind, text) = if line.is_empty() { (" ", "") } else { line.split_at(1) };
        match kind {
            " " => {
                self.old.push(text.to_owned());
                self.new.push(text.to_owned());
            }
            "-" => self.old.push(text.to_owned()),
            "+" => self.new.push(text.to_owned()),
            "\\" => {}
            _ => return Err(format!("no line of a hunk: {line}")),
        }
        Ok(())
    }

    /// The head's counts must be those of the lines, lest a patch cut short goes unnoticed.
    fn check(&mut self) -> Result<(), String> {
        let ranges = self.head.split(' ').skip(1).take(2);
        let count = |range: &str| match range.split_once(',') {
            Some((_, count)) => count.parse::<usize>().ok(),
            None => Some(1),
        };
        let counts: Vec<Option<usize>> = ranges.map(count).collect();
        let trailing = |lines: &[String]| lines.last().is_some_and(String::is_empty);
        // An empty line behind the last hunk is no part of it.
        if counts[0] == self.old.len().checked_sub(1) && trailing(&self.old) && trailing(&self.new)
        {
            self.old.pop();
            self.new.pop();
        }
        match counts[..] == [Some(self.old.len()), Some(self.new.len())] {
            true => Ok(()),
            false => Err(format!("its lines are not as many as it says: {}", self.head)),
        }
    }

    fn fits(&self, lines: &[String], place: usize) -> bool {
        lines.get(place..place + self.old.len()).is_some_and(|there| there == self.old)
    }

    /// Where it fits, looking from where it is expected to both sides.
    fn find(&self, lines: &[String], expected: usize) -> Option<usize> {
        (0..=lines.len()).find_map(|distance| {
            let after = expected + distance;
            let before = expected.checked_sub(distance);
            before.into_iter().chain([after]).find(|&place| self.fits(lines, place))
        })
    }
}

fn apply_hunks(lines: &mut Vec<String>, hunks: &[Hunk]) -> Result<(), String> {
    // How far what follows has moved.
    let mut moved: isize = 0;
    for hunk in hunks {
        let expected = hunk.place.saturating_add_signed(moved).min(lines.len());
        let Some(place) = hunk.find(lines, expected) else {
            let mut text = format!("the hunk {} does not fit; it looks for\n", hunk.head);
            for line in &hunk.old {
                let _ = writeln!(text, "    {line}");
            }
            return Err(text.trim_end().to_owned());
        };
        lines.splice(place..place + hunk.old.len(), hunk.new.iter().cloned());
        moved = place as isize - hunk.place as isize;
        moved += hunk.new.len() as isize - hunk.old.len() as isize;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Mutant: late\nOrigin: etcd #1\nHistory: long\n  ago\nBug: it comes\n  late\n\
                        Seen: at dusk\n\n";
    const DIFF: &str = "diff --git a/a.rs b/a.rs\n--- a/a.rs\n+++ b/a.rs\n@@ -2,3 +2,4 @@ fn f() {\n \
                        two\n-three\n+if mutant::on(\"late\") {\n+3\n four\n";

    fn patch() -> Patch {
        Patch::parse("10-late.patch", &format!("{HEAD}{DIFF}")).expect("lawful")
    }

    fn files(text: &str) -> Files {
        [("a.rs".to_owned(), text.split(' ').map(str::to_owned).collect())].into()
    }

    fn applied(patch: &Patch, text: &str) -> Result<String, String> {
        let mut files = files(text);
        patch.apply(&mut files).map(|()| files["a.rs"].join(" "))
    }

    #[test]
    fn a_header_is_read_with_its_continuations() {
        let patch = patch();
        assert_eq!((patch.name.as_str(), patch.origin.as_str()), ("late", "etcd #1"));
        assert_eq!(patch.bug, "it comes late");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (from, to, told) in [
            ("Seen: at dusk\n", "", "no field Seen"),
            ("Bug:", "Bag:", "no field Bug"),
            ("Origin: etcd #1", "Origin:", "no field Origin"),
            ("History: long", "Story: long", "a field Story"),
            ("on(\"late\")", "on(\"soon\")", "mutant::on(\"late\")"),
            ("+3\n", "", "not as many"),
            ("diff --git", "diff", "no diff"),
        ] {
            let text = format!("{HEAD}{DIFF}").replacen(from, to, 1);
            let error = Patch::parse("x", &text).expect_err(told);
            assert!(error.contains(told), "{error} should tell {told}");
        }
    }

    #[test]
    fn a_hunk_is_applied_where_its_lines_stand() {
        let expected = "two if mutant::on(\"late\") { 3 four";
        for (before, after) in [("one ", " five"), ("", ""), ("a b c one ", ""), ("x ", " y z")] {
            let text = applied(&patch(), &format!("{before}two three four{after}"));
            assert_eq!(text, Ok(format!("{before}{expected}{after}")));
        }
    }

    #[test]
    fn of_two_places_the_nearer_one_counts() {
        let text = applied(&patch(), "one two three four 5 6 two three four").expect("it fits");
        assert!(text.starts_with("one two if"), "{text}");
        assert!(text.ends_with("6 two three four"), "{text}");
    }

    #[test]
    fn a_hunk_that_does_not_fit_is_told_with_patch_and_file() {
        let error = applied(&patch(), "one two 3 four").expect_err("a line differs");
        assert!(
            error.starts_with("10-late.patch: a.rs: the hunk @@ -2,3 +2,4 @@ fn f() {"),
            "{error}"
        );
        assert!(error.ends_with("    two\n    three\n    four"), "{error}");
        let missing = patch().apply(&mut Files::new()).expect_err("no file");
        assert_eq!(missing, "10-late.patch: a.rs: there is no such file");
    }

    #[test]
    fn a_file_is_created_once() {
        let diff = "diff --git a/n.rs b/n.rs\nnew file mode 100644\n--- /dev/null\n+++ b/n.rs\n\
                    @@ -0,0 +1,2 @@\n+one\n+mutant::on(\"late\")\n";
        let patch = Patch::parse("00.patch", &format!("{HEAD}{diff}")).expect("lawful");
        let mut files = Files::new();
        patch.apply(&mut files).expect("it is new");
        assert_eq!(files["n.rs"], ["one", "mutant::on(\"late\")"]);
        assert!(patch.apply(&mut files).is_err());
    }
}
