//! `vmm completion`: what a shell needs to complete our words.

use std::process::ExitCode;

use clap::Args;

use super::print;
use crate::complete;
use crate::error::Failure;

#[derive(Args)]
#[command(
    after_help = "The script asks vmm for VMs, images, snapshots, commands and paths in guests as you type.

Examples:
  echo 'source <(vmm completion bash)' >> ~/.bashrc
  echo 'source <(vmm completion zsh)' >> ~/.zshrc           behind compinit
  vmm completion fish > ~/.config/fish/completions/vmm.fish"
)]
pub(crate) struct Completion {
    #[arg(value_parser = complete::shells())]
    shell: String,
}

impl Completion {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        print(&complete::script(&self.shell)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
