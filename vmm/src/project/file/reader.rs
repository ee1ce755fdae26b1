//! Reading the values of a project's file: each has its place, and what is wrong is collected, not thrown.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::description::HostPath;
use super::super::duration::parse_duration;
use crate::home::nearest_name;

/// So many mistakes are told of at once.
const MOST_PROBLEMS: usize = 20;

/// A longer word of the file's is shortened when it is told.
const LONGEST_TOLD: usize = 60;

/// A longer message is shortened: a type that reads a text may tell all of it.
const LONGEST_MESSAGE: usize = 300;

/// Something that is wrong in a project's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// What was found wrong so far.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, found: Vec::new() }
    }

    /// Notes a problem at a place: a number of bytes from the beginning of the file.
    pub(super) fn add(&mut self, at: usize, message: impl Into<String>) {
        if self.found.len() < MOST_PROBLEMS {
            let (line, column) = self.place(at);
            // What the parser says may have several lines.
            let message = cut(&message.into().replace('\n', " "), LONGEST_MESSAGE);
            self.found.push(Problem { line, column, message });
        }
    }

    /// The line and the column of a place.
    fn place(&self, at: usize) -> (usize, usize) {
        let mut end = at.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = self.text.get(..end).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    /// All of them in the order of the file; nothing where nothing is wrong.
    pub(super) fn into_found(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|problem| (problem.line, problem.column));
        self.found
    }

    pub(super) fn are_none(&self) -> bool {
        self.found.is_empty()
    }
}

/// What may stand behind a key.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A text.
    Text,
    /// `true` or `false`.
    Boolean,
    /// `true` or `false`, or one of these words.
    BooleanOr(&'static [&'static str]),
    /// A whole number within bounds.
    Number(i64, i64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An amount of memory.
    Size,
    /// A span of time.
    Span,
    /// A line for the shell, or a list of a program and its arguments.
    Command,
    /// A table of texts.
    TextTable,
    /// A table with keys of its own; makes its JSON schema.
    Table(fn() -> serde_json::Value),
    /// A list of such tables.
    Tables(fn() -> serde_json::Value),
}

/// What becomes of a VM when a key is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it counts when it is used next.
    Nothing,
    /// It must be started anew. Its disk stays.
    Restart,
    /// It must be made anew, with a new disk.
    Recreate,
}

/// A key that a table may have: all that is known of it.
pub(super) struct Key<T: 'static> {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) effect: Effect,
    pub(super) doc: &'static str,
    /// Takes the value over.
    pub(super) read: fn(&mut T, Value<'_, '_>, &mut Problems<'_>),
}

/// Reads a table by the keys that it may have.
pub(super) fn read_table<T>(
    table: &DeTable<'_>,
    keys: &'static [Key<T>],
    into: &mut T,
    problems: &mut Problems<'_>,
) {
    read_table_but(&[], table, keys, into, problems);
}

/// Reads a table by the keys that it may have, but for some that are read elsewhere.
pub(super) fn read_table_but<T>(
    others: &'static [&'static str],
    table: &DeTable<'_>,
    keys: &'static [Key<T>],
    into: &mut T,
    problems: &mut Problems<'_>,
) {
    for (name, value) in table {
        match keys.iter().find(|key| key.name == name.get_ref()) {
            Some(key) => (key.read)(into, Value { key: key.name, value }, problems),
            None if others.contains(&name.get_ref().as_ref()) => {}
            None => {
                let known = keys.iter().map(|key| key.name).chain(others.iter().copied());
                unknown_key(name, known, problems);
            }
        }
    }
}

/// Notes a key that there is not.
pub(super) fn unknown_key(
    name: &Spanned<impl AsRef<str>>,
    known: impl Iterator<Item = &'static str> + Clone,
    problems: &mut Problems<'_>,
) {
    let word = name.get_ref().as_ref();
    let told = shortened(word);
    let what_would_do = match nearest_name(&word.to_lowercase(), known.clone()) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("there are {}", known.collect::<Vec<_>>().join(", ")),
    };
    problems.add(name.span().start, format!("unknown key {told:?}: {what_would_do}"));
}

/// The value behind a key.
#[derive(Clone, Copy)]
pub(super) struct Value<'a, 'i> {
    pub(super) key: &'a str,
    pub(super) value: &'a Spanned<DeValue<'i>>,
}

impl<'a, 'i> Value<'a, 'i> {
    /// Where it begins.
    pub(super) fn at(&self) -> usize {
        self.value.span().start
    }

    /// Notes that it is wrong.
    pub(super) fn wrong(&self, problems: &mut Problems<'_>, message: impl Display) {
        problems.add(self.at(), format!("{}: {message}", shortened(self.key)));
    }

    fn wrong_type(&self, problems: &mut Problems<'_>, expected: &str) {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.wrong(problems, format!("expected {expected}, found {found}"));
    }

    pub(super) fn boolean(&self, problems: &mut Problems<'_>) -> Option<bool> {
        let value = self.value.get_ref().as_bool();
        if value.is_none() {
            self.wrong_type(problems, "true or false");
        }
        value
    }

    /// `true` or `false`, which mean these two, or one of several words.
    pub(super) fn boolean_or<T: Copy>(
        &self,
        words: &[(&str, T)],
        (no, yes): (T, T),
        problems: &mut Problems<'_>,
    ) -> Option<T> {
        match self.value.get_ref().as_bool() {
            Some(value) => Some(if value { yes } else { no }),
            None if self.value.get_ref().is_str() => self.choice(words, problems),
            None => {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                self.wrong_type(problems, &format!("true, false or {}", words.join(" or ")));
                None
            }
        }
    }

    /// A text, without the one character that no program's argument or environment can hold.
    pub(super) fn text(&self, problems: &mut Problems<'_>) -> Option<&'a str> {
        self.text_as(problems, "a string")
    }

    fn text_as(&self, problems: &mut Problems<'_>, expected: &str) -> Option<&'a str> {
        let Some(text) = self.value.get_ref().as_str() else {
            self.wrong_type(problems, expected);
            return None;
        };
        if text.contains('\0') {
            self.wrong(problems, "it cannot hold a zero byte");
            return None;
        }
        Some(text)
    }

    /// A text that is not empty and has one line, with nothing that a terminal would obey.
    pub(super) fn line(&self, problems: &mut Problems<'_>) -> Option<&'a str> {
        let text = self.text(problems)?;
        if text.is_empty() || text.chars().any(char::is_control) {
            self.wrong(problems, "expected one line of text");
            return None;
        }
        Some(text)
    }

    pub(super) fn number(&self, bounds: RangeInclusive<i64>, problems: &mut Problems<'_>) -> Option<i64> {
        let Some(number) = self.value.get_ref().as_integer() else {
            let expected = format!("a whole number, such as {}", bounds.start());
            self.wrong_type(problems, &expected);
            return None;
        };
        let value = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let value = value.filter(|value| bounds.contains(value));
        if value.is_none() {
            self.wrong(problems, format!("expected a number from {} to {}", bounds.start(), bounds.end()));
        }
        value
    }

    /// A text that a type of ours reads.
    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &self,
        expected: &str,
        problems: &mut Problems<'_>,
    ) -> Option<T> {
        let text = self.text_as(problems, expected)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(problems, error);
                None
            }
        }
    }

    /// An amount of memory or of a disk. Where the command line takes a number for mebibytes, a file says what it means.
    pub(super) fn amount<T: FromStr<Err: Display>>(
        &self,
        example: &str,
        problems: &mut Problems<'_>,
    ) -> Option<T> {
        let expected = format!("an amount with its unit, such as {example:?}");
        let text = self.text_as(problems, &expected)?;
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            self.wrong(
                problems,
                format!("{:?} has no unit: write {:?}", shortened(text), format!("{text}M")),
            );
            return None;
        }
        self.parsed(&expected, problems)
    }

    pub(super) fn duration(&self, problems: &mut Problems<'_>) -> Option<Duration> {
        let text = self.text_as(problems, "a time, such as \"90s\"")?;
        match parse_duration(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(problems, format!("{:?} is no time: {error}", shortened(text)));
                None
            }
        }
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)], problems: &mut Problems<'_>) -> Option<T> {
        let known = || words.iter().map(|(word, _)| *word);
        let all = known().collect::<Vec<_>>().join(", ");
        let text = self.text_as(problems, &format!("one of the strings {all}"))?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let nearest = nearest_name(&text.to_lowercase(), known());
        let hint = nearest.map(|word| format!(": did you mean {word}?")).unwrap_or_default();
        self.wrong(problems, format!("{:?} is not one of {all}{hint}", shortened(text)));
        None
    }

    /// The path of a file on the host.
    pub(super) fn path(&self, problems: &mut Problems<'_>) -> Option<HostPath> {
        let text = self.line(problems)?;
        let (line, column) = problems.place(self.at());
        Some(HostPath { path: text.into(), line, column })
    }

    /// A line for the shell, or a program and its arguments.
    pub(super) fn command(&self, problems: &mut Problems<'_>) -> Option<Vec<String>> {
        if self.value.get_ref().is_str() {
            let line = self.text(problems)?;
            if line.trim().is_empty() {
                self.wrong(problems, "there is no command in it");
                return None;
            }
            return Some(["sh", "-c", line].map(str::to_owned).to_vec());
        }
        let Some(list) = self.value.get_ref().as_array() else {
            self.wrong_type(problems, "a line for the shell or a list of a program and its arguments");
            return None;
        };
        let words = list.iter().map(|value| Value { key: self.key, value }.text(problems).map(str::to_owned));
        let words: Vec<_> = words.collect::<Option<_>>()?;
        if words.first().is_none_or(String::is_empty) {
            self.wrong(problems, "there is no program in it");
            return None;
        }
        Some(words)
    }

    pub(super) fn table(&self, problems: &mut Problems<'_>) -> Option<&'a DeTable<'i>> {
        let table = self.value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(problems, "a table");
        }
        table
    }

    /// The tables of a list.
    pub(super) fn tables(&self, problems: &mut Problems<'_>) -> Vec<Value<'a, 'i>> {
        let Some(list) = self.value.get_ref().as_array() else {
            self.wrong_type(problems, &format!("tables [[{}]]", self.key));
            return Vec::new();
        };
        list.iter().map(|value| Value { key: self.key, value }).collect()
    }
}

/// A word of the file's, as far as it is told.
pub(super) fn shortened(text: &str) -> String {
    cut(text, LONGEST_TOLD)
}

fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
