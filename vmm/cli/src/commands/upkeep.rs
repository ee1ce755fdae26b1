//! What `vmm run` can say of how a VM is looked after while nobody looks.

use std::time::Duration;

use clap::Args;
use vmm::{HealthCheck, RestartPolicy, SandboxBuilder};

use crate::values;

#[derive(Args)]
#[command(next_help_heading = "While nobody looks")]
pub(super) struct Upkeep {
    /// Start the VM again when it ends though nobody asked for it: no, on-failure, on-failure:N or always
    #[arg(long, value_name = "POLICY", default_value_t)]
    restart: RestartPolicy,
    /// Check by this command for the guest's shell whether the VM does what it is for; `vmm ps` tells
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// How long to wait between two checks
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "30s", requires = "health_cmd")]
    health_interval: Duration,
    /// How long a check may take
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "30s", requires = "health_cmd")]
    health_timeout: Duration,
    /// How many checks in a row fail before the VM is unhealthy
    #[arg(long, value_name = "N", default_value_t = 3, requires = "health_cmd")]
    health_retries: u32,
    /// For so long after the start, checks that fail do not count
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "health_cmd")]
    health_start_period: Option<Duration>,
}

impl Upkeep {
    pub(super) fn apply(&self, builder: SandboxBuilder) -> SandboxBuilder {
        let builder = builder.restart(self.restart);
        let Some(command) = &self.health_cmd else { return builder };
        builder.health_check(HealthCheck {
            interval: self.health_interval,
            timeout: self.health_timeout,
            retries: self.health_retries,
            start_period: self.health_start_period.unwrap_or_default(),
            ..HealthCheck::new(["sh", "-c", command])
        })
    }
}
