//! What a kernel was built with: the lines of its `.config`.

use std::collections::BTreeMap;

use crate::arch::Arch;

/// A kernel's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    values: BTreeMap<String, String>,
}

/// How a kernel has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    BuiltIn,
    Module,
    Absent,
}

impl Configuration {
    /// Reads `CONFIG_NAME=value` lines; `None` if there is none, for then the text is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let values: BTreeMap<_, _> = text.lines().filter_map(assignment).collect();
        (!values.is_empty()).then_some(Self { values })
    }

    /// The value of a symbol, by its name with `CONFIG_`.
    pub fn value(&self, symbol: &str) -> Option<&str> {
        self.values.get(symbol).map(String::as_str)
    }

    /// The machines that the kernel is for.
    pub fn arch(&self) -> Option<Arch> {
        let archs = [("CONFIG_X86_64", Arch::X86_64), ("CONFIG_ARM64", Arch::Arm64)];
        archs.into_iter().find(|(symbol, _)| self.value(symbol) == Some("y")).map(|(_, arch)| arch)
    }

    pub(super) fn presence(&self, symbol: &str) -> Presence {
        match self.value(symbol) {
            Some("m") => Presence::Module,
            None | Some("n") => Presence::Absent,
            Some(_) => Presence::BuiltIn,
        }
    }
}

/// The symbol and the value that a line sets. What is not set is written as a comment, and not kept.
pub(super) fn assignment(line: &str) -> Option<(String, String)> {
    let (symbol, value) = line.trim_end().split_once('=')?;
    let name = symbol.strip_prefix("CONFIG_")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (!name.is_empty() && name.bytes().all(plain)).then(|| (symbol.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_tells_what_is_built_in_and_what_is_a_module() {
        let text =
            "# Linux/x86 6.12\nCONFIG_X86_64=y\nCONFIG_KVM=m\n# CONFIG_PCI is not set\nCONFIG_HZ=250\n";
        let found = Configuration::parse(text).unwrap();
        assert_eq!(found.arch(), Some(Arch::X86_64));
        let presence = |symbol| found.presence(symbol);
        assert_eq!(presence("CONFIG_X86_64"), Presence::BuiltIn);
        assert_eq!(presence("CONFIG_KVM"), Presence::Module);
        assert_eq!(presence("CONFIG_PCI"), Presence::Absent);
        assert_eq!(found.value("CONFIG_HZ"), Some("250"));
    }

    #[test]
    fn what_sets_no_symbol_is_no_configuration() {
        for text in ["", "hello = world\n", "CONFIG_=y\n", "# CONFIG_PVH is not set\n", "CONFIG_A B=y\n"] {
            assert_eq!(Configuration::parse(text), None, "{text}");
        }
    }
}
