//! `vmm help`: of commands, and of topics that are about several.

use std::process::ExitCode;

use clap::{Args, CommandFactory};

use super::print;
use crate::error::Failure;

/// What there are texts about.
const TOPICS: [(&str, &str); 7] = [
    ("disks", include_str!("../topics/disks.txt")),
    ("engines", include_str!("../topics/engines.txt")),
    ("environment", include_str!("../topics/environment.txt")),
    ("files", include_str!("../topics/files.txt")),
    ("images", include_str!("../topics/images.txt")),
    ("projects", include_str!("../topics/projects.txt")),
    ("scripting", include_str!("../topics/scripting.txt")),
];

#[derive(Args)]
#[command(after_help = "Examples:
  vmm help topics
  vmm help scripting
  vmm help snapshot create")]
pub(crate) struct Help {
    /// A command, perhaps with one of its own, or a topic; `topics` lists them
    #[arg(value_name = "COMMAND|TOPIC")]
    words: Vec<String>,
}

impl Help {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let text = match self.words.as_slice() {
            [word] if word == "topics" => list(),
            [word] if topic(word).is_some() => topic(word).unwrap_or_default().to_owned(),
            words => help_of(words)?,
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn topic(name: &str) -> Option<&'static str> {
    TOPICS.iter().find(|(topic, _)| *topic == name).map(|(_, text)| *text)
}

fn list() -> String {
    let line = |(name, text): &(&str, &str)| {
        format!("  vmm help {name:<12} {}\n", text.lines().next().unwrap_or_default())
    };
    TOPICS.iter().map(line).collect()
}

/// The help of a command, as its `--help` prints it.
fn help_of(words: &[String]) -> Result<String, Failure> {
    let mut root = crate::Cli::command();
    root.build();
    let mut command = &root;
    for word in words {
        let Some(found) = command.find_subcommand(word) else { return Err(unknown(word, command)) };
        command = found;
    }
    let asked = ["vmm"].into_iter().chain(words.iter().map(String::as_str)).chain(["--help"]);
    let help = crate::Cli::command().try_get_matches_from(asked);
    Ok(help.err().map(|help| help.to_string()).unwrap_or_default())
}

fn unknown(word: &str, above: &clap::Command) -> Failure {
    let topics = TOPICS.iter().map(|(topic, _)| *topic).chain(["topics"]);
    let commands = above.get_subcommands().map(clap::Command::get_name);
    let hint = match vmm::nearest_name(word, commands.chain(topics)) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "vmm help lists the commands, vmm help topics the topics".to_owned(),
    };
    Failure::usage(format!("there is no command and no topic {word:?}")).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_fits_a_terminal_and_is_found() {
        for (name, text) in TOPICS {
            assert!(text.lines().all(|line| line.chars().count() <= 120), "{name}");
            assert!(list().contains(name));
        }
        assert!(
            help_of(&["snapshot".to_owned(), "create".to_owned()])
                .unwrap()
                .contains("Usage: vmm snapshot create")
        );
        assert!(help_of(&["sandbocks".to_owned()]).is_err());
    }
}
