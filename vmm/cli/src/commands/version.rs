//! `vmm version`: what this executable is.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{print, print_json};
use crate::error::Failure;

#[derive(Args)]
pub(crate) struct Version {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Versions {
    version: &'static str,
    platform: String,
    agent_protocol: String,
    /// The version of what `--json` prints: within it, fields are only added.
    json: u32,
}

/// See `docs/scripting.md`.
const JSON_VERSION: u32 = 1;

impl Version {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let versions = Versions {
            version: env!("CARGO_PKG_VERSION"),
            platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            agent_protocol: vmm::PROTOCOL_VERSION.to_string(),
            json: JSON_VERSION,
        };
        if self.json {
            print_json(&versions)?;
        } else {
            let Versions { version, platform, agent_protocol, .. } = versions;
            print(&format!("vmm {version} for {platform}, agent protocol {agent_protocol}\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
