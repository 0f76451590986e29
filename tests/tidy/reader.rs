//! A small reader of Rust: what a source file refers to, without comments, literals and tests.
//!
//! It blanks what is not code, line by line, so that places stay what they were; then it expands
//! `use` trees and follows `crate`, `self` and `super`. It knows no types and no macros: a path
//! is what looks like one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A path in the code, as written but for its `use` tree, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    pub line: usize,
    /// The names of the modules around it inside the file.
    inside: Vec<String>,
    pub names: Vec<String>,
}

/// A file of ours.
pub struct Source {
    /// Below its root, with `/`.
    pub name: String,
    pub text: String,
    /// The text with comments, literals and test code blanked, line by line the same.
    pub code: String,
    pub paths: Vec<Reference>,
}

impl Source {
    pub fn new(name: &str, text: &str) -> Source {
        let code = match is_test_file(text) {
            true => String::new(),
            false => without_tests(&without_comments_and_literals(text)).0,
        };
        Source { name: name.into(), text: text.into(), paths: references(&code), code }
    }

    /// The top module it belongs to: `lib` and `main` are themselves.
    pub fn module(&self) -> &str {
        let first = self.name.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The file's place in the tree of modules.
    fn module_path(&self) -> Vec<String> {
        let path = self.name.strip_suffix(".rs").unwrap_or(&self.name);
        let path = path.strip_suffix("/mod").unwrap_or(path);
        path.split('/').filter(|part| !["lib", "main"].contains(part)).map(String::from).collect()
    }

    /// The path counted from the crate's root, if it leads into this crate by name.
    pub fn resolve(&self, path: &Reference) -> Option<Vec<String>> {
        let mut here = [self.module_path(), path.inside.clone()].concat();
        let mut names = &path.names[..];
        match names.first().map(String::as_str) {
            Some("crate") => return Some(names[1..].to_vec()),
            Some("self") => names = &names[1..],
            Some("super") => {}
            _ => return None,
        }
        while names.first().is_some_and(|name| name == "super") {
            here.pop();
            names = &names[1..];
        }
        Some([&here, names].concat())
    }
}

/// Our files below a folder of the repository, in order.
pub fn sources(root: &str) -> Vec<Source> {
    // Set by cargo for the run, so that a built test can look at another tree.
    let repository =
        std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    let root = PathBuf::from(repository).join(root);
    let mut names = Vec::new();
    list(&root, &root, &mut names);
    names.sort();
    let read = |name: &String| std::fs::read_to_string(root.join(name)).expect("source is text");
    let texts: Vec<String> = names.iter().map(read).collect();
    let tests: BTreeSet<String> =
        (names.iter().zip(&texts)).flat_map(|(name, text)| test_files(name, text)).collect();
    let mut files: Vec<Source> =
        (names.iter().zip(&texts)).map(|(name, text)| Source::new(name, text)).collect();
    for file in &mut files {
        let tested = |test: &String| {
            file.name == format!("{test}.rs") || file.name.starts_with(&format!("{test}/"))
        };
        if tests.iter().any(tested) {
            file.code.clear();
            file.paths.clear();
        }
    }
    files.retain(|file| !file.name.starts_with("proto/") || file.name == "proto/mod.rs");
    files
}

pub fn everywhere() -> Vec<(&'static str, Source)> {
    let roots = ["src", "tests"].into_iter();
    roots.flat_map(|root| sources(root).into_iter().map(move |file| (root, file))).collect()
}

fn list(root: &Path, folder: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("source folders can be listed") {
        let path = entry.expect("source folders can be listed").path();
        // Other projects live below `tests/clients`, with what they built.
        if path.is_dir() && !path.ends_with("clients") {
            list(root, &path, names);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let name = path.strip_prefix(root).expect("is below its root");
            names.push(name.to_string_lossy().into_owned());
        }
    }
}

/// The files, without ending, that a file declares as test modules.
fn test_files(name: &str, text: &str) -> Vec<String> {
    let stem = name.strip_suffix(".rs").unwrap_or(name);
    let folder = match stem.rsplit_once('/') {
        Some((folder, "mod")) => format!("{folder}/"),
        None if ["lib", "main"].contains(&stem) => String::new(),
        _ => format!("{stem}/"),
    };
    let (_, items) = without_tests(&without_comments_and_literals(text));
    let declared = items.iter().filter_map(|item| {
        let words: Vec<&str> = words(item).collect();
        let at = words.iter().position(|word| *word == "mod")?;
        (item.ends_with(';')).then(|| words.get(at + 1).map(|name| format!("{folder}{name}")))?
    });
    declared.collect()
}

/// Whether the whole file is test code by its own word.
fn is_test_file(text: &str) -> bool {
    without_comments_and_literals(text).contains("#![cfg(test)]")
}

/// Puts blanks where comments and literals are, keeping the lines.
fn without_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        for &char in &chars[at..end.unwrap_or(at + 1)] {
            out.push(if end.is_some() && char != '\n' { ' ' } else { char });
        }
        at = end.unwrap_or(at + 1);
    }
    out
}

/// The end of the comment or literal that starts here, if one does.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let starts = |text: &str, at: usize| {
        text.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    let find = |text: &str, from: usize| (from..chars.len()).find(|&i| starts(text, i));
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    let after = |end: Option<usize>, len: usize| end.map_or(chars.len(), |end| end + len);
    if starts("//", at) {
        return Some(after(find("\n", at), 0));
    }
    if starts("/*", at) {
        let (mut depth, mut end) = (0, at);
        while end < chars.len() {
            let (opens, closes) = (starts("/*", end), starts("*/", end));
            depth = depth + i32::from(opens) - i32::from(closes);
            end += if opens || closes { 2 } else { 1 };
            if depth == 0 {
                break;
            }
        }
        return Some(end.min(chars.len()));
    }
    if chars[at] == 'r' && !in_word || chars[at] == 'r' && at > 0 && chars[at - 1] == 'b' {
        let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
        if starts("\"", at + 1 + hashes) {
            let close = format!("\"{}", "#".repeat(hashes));
            return Some(after(find(&close, at + 2 + hashes), close.len()));
        }
    }
    let quote = chars[at];
    // A quote that is not closed after one character is a lifetime's.
    let lifetime =
        quote == '\'' && chars.get(at + 1) != Some(&'\\') && chars.get(at + 2) != Some(&'\'');
    if quote != '"' && quote != '\'' || lifetime {
        return None;
    }
    let mut end = at + 1;
    while end < chars.len() && chars[end] != quote {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    Some((end + 1).min(chars.len()))
}

/// Puts blanks where items under `#[cfg(test)]` are, and answers those items too.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let (mut out, mut items) = (String::new(), Vec::new());
    let mut rest = code;
    while let Some(start) =
        ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|a| rest.find(a)).min()
    {
        let end = start + item_end(&rest[start..]);
        out.push_str(&rest[..start]);
        out.extend(rest[start..end].chars().map(|char| if char == '\n' { '\n' } else { ' ' }));
        items.push(rest[start..end].to_string());
        rest = &rest[end..];
    }
    (out + rest, items)
}

/// The length of an item with its attributes.
fn item_end(text: &str) -> usize {
    let mut depth = 0;
    for (at, char) in text.char_indices() {
        match char {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth <= 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    text.len()
}

pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !char.is_alphanumeric() && char != '_').filter(|word| !word.is_empty())
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Colons,
    Sign(char),
}

fn tokens(code: &str) -> Vec<(usize, Token)> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(char) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (token, len) = match char {
                _ if word > 0 => (Token::Word(rest[..word].into()), word),
                ':' if rest.starts_with("::") => (Token::Colons, 2),
                _ => (Token::Sign(char), char.len_utf8()),
            };
            if !char.is_whitespace() {
                tokens.push((index + 1, token));
            }
            rest = &rest[len..];
        }
    }
    tokens
}

/// All paths of two names and more, `use` trees expanded.
fn references(code: &str) -> Vec<Reference> {
    let tokens = tokens(code);
    let sign =
        |at: usize, sign: char| matches!(tokens.get(at), Some((_, Token::Sign(s))) if *s == sign);
    let word = |at: usize| match tokens.get(at) {
        Some((_, Token::Word(word))) => Some(word.as_str()),
        _ => None,
    };
    let mut found = Vec::new();
    let (mut depth, mut at) = (0, 0);
    // Modules inside the file, with the depth at which each ends.
    let mut inside: Vec<(usize, String)> = Vec::new();
    while at < tokens.len() {
        if word(at) == Some("mod") && sign(at + 2, '{') {
            inside.push((depth, word(at + 1).unwrap_or_default().into()));
        }
        if word(at).is_some() {
            let around: Vec<String> = inside.iter().map(|(_, name)| name.clone()).collect();
            at = tree(&tokens, at, &[], &around, &mut found);
            continue;
        }
        if sign(at, '{') {
            depth += 1;
        } else if sign(at, '}') {
            depth = depth.saturating_sub(1);
            inside.retain(|(end, _)| *end < depth);
        }
        at += 1;
    }
    found.retain(|path| path.names.len() > 1);
    found
}

/// Reads the path or `use` tree at a token; answers the first token behind it.
fn tree(
    tokens: &[(usize, Token)],
    mut at: usize,
    before: &[String],
    inside: &[String],
    found: &mut Vec<Reference>,
) -> usize {
    let mut names = before.to_vec();
    let line = tokens[at].0;
    loop {
        match tokens.get(at).map(|(_, token)| token) {
            Some(Token::Word(word)) => names.push(word.clone()),
            Some(Token::Sign('*')) if !names.is_empty() => names.push("*".into()),
            Some(Token::Sign('{')) if !names.is_empty() => {
                at += 1;
                while at < tokens.len() && tokens[at].1 != Token::Sign('}') {
                    at = match tokens[at].1 {
                        Token::Word(_) | Token::Sign('*') => {
                            tree(tokens, at, &names, inside, found)
                        }
                        _ => at + 1,
                    };
                }
                return at + 1;
            }
            // A generic argument or something a macro will fill in: the path ends before it.
            _ => break,
        }
        at += 1;
        if tokens.get(at).map(|(_, token)| token) != Some(&Token::Colons) {
            break;
        }
        at += 1;
    }
    // `x::{self as y}` names `x`.
    if names.len() > 1 && names.last().is_some_and(|last| last == "self") {
        names.pop();
    }
    found.push(Reference { line, inside: inside.to_vec(), names });
    if matches!(tokens.get(at), Some((_, Token::Word(word))) if word == "as") && !before.is_empty()
    {
        return at + 2;
    }
    at
}

#[test]
fn test_modules_in_files_of_their_own_are_found() {
    assert_eq!(test_files("a/mod.rs", "#[cfg(test)]\nmod tests;"), ["a/tests"]);
    assert_eq!(test_files("a/b.rs", "#[cfg(test)] pub(super) mod world;"), ["a/b/world"]);
    assert_eq!(test_files("lib.rs", "mod real;\n#[cfg(test)]\nmod tests {}"), Vec::<String>::new());
}
