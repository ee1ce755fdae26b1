//! Bash cuts words apart at colons, which are a part of ours (`box:/etc`), and leaves the quoting to us. So the whole line is
//! taken apart here.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap_complete::engine::complete;
use clap_complete::env::EnvCompleter;

use super::WORDS;

pub(super) struct Bash;

pub(super) const NAME: &str = "bash";

/// What Bash gives a function that completes, as variables of ours.
const LINE: &str = "_VMM_LINE";
const POINT: &str = "_VMM_POINT";
const BREAKS: &str = "_VMM_BREAKS";

const SCRIPT: &str = r#"_vmm() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <(VARIABLE=bash _VMM_LINE="$COMP_LINE" _VMM_POINT="$COMP_POINT" _VMM_BREAKS="$COMP_WORDBREAKS" \
        COMPLETER -- vmm 2> /dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/:=] ]]; then
        compopt -o nospace 2> /dev/null
    fi
}
complete -o bashdefault -F _vmm BINARY
"#;

impl EnvCompleter for Bash {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is(&self, name: &str) -> bool {
        name == NAME
    }

    fn write_registration(
        &self,
        variable: &str,
        _name: &str,
        binary: &str,
        completer: &str,
        script: &mut dyn Write,
    ) -> io::Result<()> {
        let text = SCRIPT.replace("VARIABLE", variable).replace("COMPLETER", completer);
        script.write_all(text.replace("BINARY", binary).as_bytes())
    }

    fn write_complete(
        &self,
        command: &mut clap::Command,
        _arguments: Vec<OsString>,
        folder: Option<&Path>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let line = variable(LINE);
        let point = variable(POINT).parse().unwrap_or(line.len());
        let Some(line) = line.get(..point.min(line.len())) else { return Ok(()) };
        let words = split(line);
        let current = words.last().cloned().unwrap_or_default();
        let before: Vec<OsString> = words[..words.len() - 1].iter().map(OsString::from).collect();
        let _ = WORDS.set(before);
        let given: Vec<OsString> = words.iter().map(OsString::from).collect();
        let index = given.len() - 1;
        let breaks = variable(BREAKS);
        // Bash replaces what stands behind the last of these.
        let kept = current.rfind(|c| ":=".contains(c) && breaks.contains(c)).map_or(0, |at| at + 1);
        for candidate in complete(command, given, index, folder)? {
            let Some(value) = candidate.get_value().to_str() else { continue };
            // Options are for whoever begins one.
            if value.starts_with('-') && !current.starts_with('-') {
                continue;
            }
            if let Some(rest) = value.get(kept..).filter(|_| value.starts_with(&current[..kept])) {
                writeln!(out, "{}", quote(rest))?;
            }
        }
        Ok(())
    }
}

/// The words of a line, as Bash reads them; the last is the one that is being written.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        let last = words.len() - 1;
        let word = &mut words[last];
        match (c, quoted) {
            ('\\', None) => word.extend(characters.next()),
            ('\\', Some('"')) => match characters.next() {
                Some(next @ ('"' | '\\' | '$' | '`')) => word.push(next),
                next => {
                    word.push('\\');
                    word.extend(next);
                }
            },
            (c, Some(quote)) if c == quote => quoted = None,
            ('"' | '\'', None) => quoted = Some(c),
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(String::new());
                }
            }
            (c, _) => word.push(c),
        }
    }
    words
}

/// A word as Bash would have it written.
fn quote(word: &str) -> String {
    let mut quoted = String::new();
    for c in word.chars() {
        if " \t\"'\\$`&;()<>|*?[]{}#!~".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_bash_reads_it() {
        assert_eq!(split("vmm cp box:/et"), ["vmm", "cp", "box:/et"]);
        assert_eq!(split("vmm stop  "), ["vmm", "stop", ""]);
        assert_eq!(
            split(r#"vmm cp "a b" c\ d 'e"f' "g\"h" box:/x\ "#),
            ["vmm", "cp", "a b", "c d", "e\"f", "g\"h", "box:/x "]
        );
        assert_eq!(split(""), [""]);
    }

    #[test]
    fn what_bash_would_read_otherwise_is_quoted() {
        assert_eq!(quote("/srv/a b"), r"/srv/a\ b");
        assert_eq!(split(&quote("it's $HOME")), ["it's $HOME"]);
    }
}
