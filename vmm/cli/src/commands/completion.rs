//! `vmm completion`: what a shell needs to complete our words.

use std::process::ExitCode;

use clap::{Args, CommandFactory};

use super::print;
use crate::error::Failure;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm completion bash > ~/.local/share/bash-completion/completions/vmm
  vmm completion zsh > \"${fpath[1]}/_vmm\"
  vmm completion fish > ~/.config/fish/completions/vmm.fish")]
pub(crate) struct Completion {
    shell: clap_complete::Shell,
}

impl Completion {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::Cli::command(), "vmm", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}
