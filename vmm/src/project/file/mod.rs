//! `vmm.toml`: what a person writes of a project. Read without touching anything else, for it comes from strangers.

mod json_schema;
mod keys;
mod reader;
#[cfg(test)]
mod tests;

use toml::de::{DeTable, DeValue};

use super::description::{MachineDescription, ONLY_MACHINE};
pub(crate) use keys::effect_of;
pub(crate) use reader::Effect;
pub use reader::Problem;
use reader::{Problems, Value, read_table, read_table_but, shortened, unknown_key};

/// The name of the file.
pub const FILE_NAME: &str = "vmm.toml";

/// The version of the format that is read here.
const VERSION: i64 = 1;

/// What only the top of the file may have.
const TOP_LEVEL: [&str; 2] = ["version", "vm"];

/// Longer files are not read.
pub(super) const LONGEST_FILE: u64 = 256 << 10;

/// More machines than anybody describes by hand.
const MOST_MACHINES: usize = 64;

/// The longest name of a machine: it is a part of its VM's name.
const MACHINE_NAME_LENGTH: usize = 30;

/// What a machine's name can be.
const MACHINE_NAME_PATTERN: &str = "^[a-z0-9][a-z0-9-]{0,29}$";

/// What a person reads and changes first: every key with what it does.
pub const TEMPLATE: &str = include_str!("template.toml");

/// What a project's file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectFile {
    /// The machines with their names, in the order of the file.
    pub machines: Vec<(String, MachineDescription)>,
}

impl Default for ProjectFile {
    /// What an empty file says: one machine, of which nothing is said.
    fn default() -> Self {
        Self { machines: vec![(ONLY_MACHINE.to_owned(), MachineDescription::default())] }
    }
}

impl ProjectFile {
    /// Reads the text of a file. All that is wrong with it is told at once.
    ///
    /// ```
    /// use vmm::project::ProjectFile;
    ///
    /// let problems = ProjectFile::parse("memory = \"1G\"\ncpu = 2").unwrap_err();
    /// assert_eq!((problems[0].line, problems[0].column), (2, 1));
    /// assert_eq!(problems[0].message, "unknown key \"cpu\": did you mean cpus?");
    /// ```
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::new(text);
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            problems.add(error.span().map_or(0, |span| span.start), error.message());
        }
        let document = document.get_ref();
        // Where the writing itself is wrong, what would be read may not be what was meant.
        if problems.are_none() && check_version(document, &mut problems) {
            let machines = read_machines(document, &mut problems);
            if problems.are_none() {
                return Ok(Self { machines });
            }
        }
        Err(problems.into_found())
    }

    /// The JSON schema of the file, for editors.
    pub fn json_schema() -> serde_json::Value {
        json_schema::of_file()
    }
}

/// Whether the file is of a version that we know. Of a newer one nothing else is said: all of it may have changed.
fn check_version(document: &DeTable<'_>, problems: &mut Problems<'_>) -> bool {
    let Some((key, value)) = document.iter().find(|(key, _)| key.get_ref() == "version") else { return true };
    let version = Value { key: key.get_ref(), value };
    match version.number(1..=i64::MAX, problems) {
        Some(VERSION) => true,
        Some(newer) => {
            version.wrong(
                problems,
                format!(
                    "this vmm reads files of version {VERSION}, and this is {newer}: a newer vmm reads it"
                ),
            );
            false
        }
        None => false,
    }
}

fn read_machines(document: &DeTable<'_>, problems: &mut Problems<'_>) -> Vec<(String, MachineDescription)> {
    let tables = document.iter().find(|(key, _)| key.get_ref() == "vm");
    let Some((_, tables)) = tables else {
        let mut machine = MachineDescription::default();
        read_table_but(&TOP_LEVEL, document, keys::MACHINE, &mut machine, problems);
        keys::check_together(document, &machine, problems);
        return vec![(ONLY_MACHINE.to_owned(), machine)];
    };
    refuse_top_level(document, problems);
    let value = Value { key: "vm", value: tables };
    let Some(tables) = value.table(problems) else { return Vec::new() };
    if tables.is_empty() || tables.len() > MOST_MACHINES {
        value.wrong(
            problems,
            format!("expected 1 to {MOST_MACHINES} tables [vm.NAME], found {}", tables.len()),
        );
        return Vec::new();
    }
    let mut entries: Vec<_> = tables.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let mut machines = Vec::new();
    for (name, value) in entries {
        let key = name.get_ref().as_ref();
        if !is_machine_name(key) {
            problems.add(
                name.span().start,
                format!(
                    "{:?} cannot be the name of a VM: use up to {MACHINE_NAME_LENGTH} lower-case letters, digits and '-', beginning with a letter or digit",
                    shortened(key)
                ),
            );
        }
        if matches!(value.get_ref(), DeValue::Table(_)) || keys::MACHINE.iter().all(|known| known.name != key)
        {
            let Some(table) = (Value { key, value }).table(problems) else { continue };
            let mut machine = MachineDescription::default();
            read_table(table, keys::MACHINE, &mut machine, problems);
            keys::check_together(table, &machine, problems);
            machines.push((key.to_owned(), machine));
        } else {
            problems.add(name.span().start, format!("{key} belongs into a table [vm.NAME]"));
        }
    }
    machines
}

/// Beside tables of machines there is no machine at the top.
fn refuse_top_level(document: &DeTable<'_>, problems: &mut Problems<'_>) {
    for name in document.keys().filter(|key| !TOP_LEVEL.contains(&key.get_ref().as_ref())) {
        let key = name.get_ref().as_ref();
        if keys::MACHINE.iter().any(|known| known.name == key) {
            let message =
                format!("{key} belongs into one of the tables [vm.NAME], since this file has such tables");
            problems.add(name.span().start, message);
        } else {
            unknown_key(name, TOP_LEVEL.into_iter(), problems);
        }
    }
}

pub(super) fn is_machine_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= MACHINE_NAME_LENGTH
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
}
