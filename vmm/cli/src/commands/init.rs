//! `vmm init`: a file that describes a project.

use std::process::ExitCode;

use clap::Args;
use vmm::project::{Project, ProjectFile};

use super::{print, print_json};
use crate::error::Failure;

#[derive(Args)]
pub(crate) struct Init {
    /// Print the JSON schema of vmm.toml, for editors, and write nothing
    #[arg(long)]
    schema: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Init {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if self.schema {
            print_json(&ProjectFile::json_schema())?;
            return Ok(ExitCode::SUCCESS);
        }
        let path = Project::init(".")?;
        let name = path.file_name().unwrap_or_default().display();
        if self.json {
            print_json(&serde_json::json!({ "file": path }))?;
            return Ok(ExitCode::SUCCESS);
        }
        print(&format!("{name} is written: change it as you like, then vmm up\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}
