//! EDN's syntax, as far as histories use it.
//!
//! A form is nil, a boolean, a number, a string, a character, a keyword, a symbol, or a collection
//! of forms. Tags are passed over (`#jepsen.history.Op{...}` is the map), so are comments and
//! discarded forms (`#_`). A number that is no 64-bit integer is kept as it was written.
//!
//! - Each form knows the line on which it begins, so that an error can name it.
//! - Depth is bounded, so that no input overflows the stack.

use std::fmt;

/// Deeper nesting is refused.
const DEPTH_MAX: usize = 100;

/// A form and where it begins.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Form {
    /// Counted from 1.
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    Nil,
    Integer(i64),
    String(String),
    /// Without the colon.
    Keyword(String),
    /// A symbol, a character, or another number, as it was written.
    Word(String),
    /// A vector or a list.
    Sequence(Vec<Form>),
    Map(Vec<(Form, Form)>),
    Set(Vec<Form>),
}

/// What is wrong and on which line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Problem {
    pub line: usize,
    pub text: String,
}

impl Form {
    /// The value of a keyword in a map.
    pub fn get(&self, name: &str) -> Option<&Form> {
        let Value::Map(entries) = &self.value else { return None };
        let is_it = |key: &Form| matches!(&key.value, Value::Keyword(keyword) if keyword == name);
        entries.iter().find(|(key, _)| is_it(key)).map(|(_, value)| value)
    }

    pub fn keyword(&self) -> Option<&str> {
        match &self.value {
            Value::Keyword(name) => Some(name),
            _ => None,
        }
    }

    pub fn sequence(&self) -> Option<&[Form]> {
        match &self.value {
            Value::Sequence(forms) => Some(forms),
            _ => None,
        }
    }

    pub fn is_nil(&self) -> bool {
        self.value == Value::Nil
    }
}

/// As a person would write it; strings without quotes.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |f: &mut fmt::Formatter<'_>, forms: &[Form]| {
            forms.iter().enumerate().try_for_each(|(place, form)| {
                write!(f, "{}{form}", if place > 0 { " " } else { "" })
            })
        };
        match &self.value {
            Value::Nil => f.write_str("nil"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::String(text) | Value::Word(text) => f.write_str(text),
            Value::Keyword(name) => write!(f, ":{name}"),
            Value::Sequence(forms) => {
                f.write_str("[")?;
                all(f, forms)?;
                f.write_str("]")
            }
            Value::Set(forms) => {
                f.write_str("#{")?;
                all(f, forms)?;
                f.write_str("}")
            }
            Value::Map(entries) => {
                f.write_str("{")?;
                for (place, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}{key} {value}", if place > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Reads all forms of a text.
pub(super) fn forms(text: &str) -> Result<Vec<Form>, Problem> {
    let mut reader = Reader { text, at: 0, line: 1 };
    let mut forms = Vec::new();
    while let Some(form) = reader.form(0)? {
        forms.push(form);
    }
    match reader.peek() {
        None => Ok(forms),
        Some(closing) => Err(reader.problem(&format!("a {closing:?} that closes nothing"))),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let taken = self.peek()?;
        self.at += taken.len_utf8();
        self.line += usize::from(taken == '\n');
        Some(taken)
    }

    fn problem(&self, text: &str) -> Problem {
        Problem { line: self.line, text: text.to_owned() }
    }

    /// Passes over what means nothing; commas are spaces.
    fn skip(&mut self) {
        while let Some(next) = self.peek() {
            match next {
                ';' => while self.take().is_some_and(|taken| taken != '\n') {},
                ',' => {
                    self.take();
                }
                next if next.is_whitespace() => {
                    self.take();
                }
                _ => return,
            }
        }
    }

    /// The next form; none at the end or at a closing bracket.
    fn form(&mut self, depth: usize) -> Result<Option<Form>, Problem> {
        if depth > DEPTH_MAX {
            return Err(self.problem("nested too deep"));
        }
        self.skip();
        let line = self.line;
        let Some(next) = self.peek() else { return Ok(None) };
        let value = match next {
            ')' | ']' | '}' => return Ok(None),
            '[' => Value::Sequence(self.collection(']', depth)?),
            '(' => Value::Sequence(self.collection(')', depth)?),
            '{' => Value::Map(self.map(depth)?),
            '"' => Value::String(self.string()?),
            '#' => return self.dispatch(depth),
            '\\' => {
                self.take();
                let character = self.take().map(String::from).unwrap_or_default();
                Value::Word(format!("\\{character}{}", self.word()))
            }
            ':' => {
                self.take();
                Value::Keyword(self.word())
            }
            _ => match self.word() {
                word if word == "nil" => Value::Nil,
                word if word.is_empty() => return Err(self.problem("not EDN")),
                word => word.parse().map_or_else(|_| Value::Word(word), Value::Integer),
            },
        };
        Ok(Some(Form { line, value }))
    }

    /// What follows a `#`: a set, a discarded form, or a tag.
    fn dispatch(&mut self, depth: usize) -> Result<Option<Form>, Problem> {
        let line = self.line;
        self.take();
        match self.peek() {
            Some('{') => {
                let value = Value::Set(self.collection('}', depth)?);
                Ok(Some(Form { line, value }))
            }
            Some('_') => {
                self.take();
                if self.form(depth + 1)?.is_none() {
                    return Err(self.problem("nothing to discard after #_"));
                }
                self.form(depth + 1)
            }
            _ => {
                self.word();
                let tagged = self.form(depth + 1)?;
                tagged.map(Some).ok_or_else(|| self.problem("a tag without a form"))
            }
        }
    }

    fn collection(&mut self, closing: char, depth: usize) -> Result<Vec<Form>, Problem> {
        let opened = self.line;
        self.take();
        let mut forms = Vec::new();
        while let Some(form) = self.form(depth + 1)? {
            forms.push(form);
        }
        match self.take() {
            Some(taken) if taken == closing => Ok(forms),
            Some(taken) => Err(self.problem(&format!("{taken:?} where {closing:?} belongs"))),
            None => Err(Problem { line: opened, text: format!("no {closing:?} closes it") }),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Form, Form)>, Problem> {
        let line = self.line;
        let mut forms = self.collection('}', depth)?.into_iter();
        let mut entries = Vec::new();
        while let Some(key) = forms.next() {
            let text = "a map with a key that has no value".to_owned();
            entries.push((key, forms.next().ok_or(Problem { line, text })?));
        }
        Ok(entries)
    }

    fn string(&mut self) -> Result<String, Problem> {
        let opened = self.line;
        self.take();
        let mut text = String::new();
        loop {
            match self.take() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(match self.take() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some('b') => '\u{8}',
                    Some('f') => '\u{c}',
                    Some('u') => self.unicode()?,
                    Some(escaped @ ('"' | '\\' | '/')) => escaped,
                    _ => return Err(self.problem("an escape that EDN does not have")),
                }),
                Some(other) => text.push(other),
                None => return Err(Problem { line: opened, text: "a string without end".into() }),
            }
        }
    }

    fn unicode(&mut self) -> Result<char, Problem> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.take().and_then(|digit| digit.to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.problem("\\u without four hex digits"))?;
        }
        // Half of a pair stands for nothing by itself.
        Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn word(&mut self) -> String {
        let ends = |c: char| c.is_whitespace() || ",;\"()[]{}".contains(c);
        let rest = &self.text[self.at..];
        let word = &rest[..rest.find(ends).unwrap_or(rest.len())];
        self.at += word.len();
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> String {
        let all: Vec<String> = forms(text).unwrap().iter().map(Form::to_string).collect();
        all.join(" | ")
    }

    #[test]
    fn forms_are_read_as_they_are_written() {
        assert_eq!(
            printed("{:a 1, :b [nil \"x\\ny\" :c/d] } ; end\n #tag (1 -2 1.5 foo) #{1} #_gone \\a"),
            "{:a 1, :b [nil x\ny :c/d]} | [1 -2 1.5 foo] | #{1} | \\a"
        );
        assert_eq!(printed(" ,, "), "");
    }

    #[test]
    fn an_error_names_its_line() {
        for (text, line, told) in [
            ("{:a\n 1", 1, "closes"),
            ("\n]", 2, "closes nothing"),
            ("\n\n\"abc", 3, "without end"),
            ("{:a 1 :b}", 1, "no value"),
            ("[1\n)", 2, "belongs"),
            (&"[".repeat(10_000), 1, "deep"),
        ] {
            let problem = forms(text).unwrap_err();
            assert_eq!(problem.line, line, "{text} {problem:?}");
            assert!(problem.text.contains(told), "{problem:?}");
        }
    }
}
