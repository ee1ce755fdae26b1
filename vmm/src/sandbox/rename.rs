//! Giving a VM another name, whether it runs or not.

use std::time::{Duration, Instant};

use super::{Error, Sandbox, hold};
use crate::control::{Answer, ControlError, RefusalCode, Request};
use crate::home::{HomeError, VmName};

/// How long a monitor may take to see a description on the disk. Whether one that takes longer has a new name by then is not
/// known.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

impl Sandbox {
    /// Gives it another name; of two VMs that want one name, one gets it. One without a name gets one, and is still gone
    /// when it ends. A guest that runs goes on calling itself as it did, until its next start. This handle keeps the name
    /// that it has.
    ///
    /// A VM of a project is known to that by its name: see [`crate::project::vms_of_projects`].
    pub fn rename(&self, name: &str) -> Result<(), Error> {
        let name: VmName = name.parse().map_err(HomeError::from)?;
        let folder = self.link.folder();
        folder.home().rename(folder, &name, || match hold(folder, self.name()) {
            Ok(held) => {
                let mut spec = folder.spec()?.ok_or_else(|| self.gone())?;
                spec.rename(&name);
                Ok(held.write_spec(&spec)?)
            }
            // What a VM is that runs is its monitor's to write.
            Err(Error::AlreadyRunning { .. }) => self.ask_to_rename(&name),
            Err(error) => Err(error),
        })
    }

    fn ask_to_rename(&self, name: &VmName) -> Result<(), Error> {
        let mut connection = self.link.connect()?;
        let deadline = Instant::now() + WRITE_TIMEOUT;
        match connection.ask(Request::Rename { name: name.clone() }, Some(deadline), None) {
            Ok(Answer::Renamed) => Ok(()),
            Ok(_) => Err(ControlError::Malformed.into()),
            Err(ControlError::Refused { refusal }) if refusal.code == RefusalCode::Invalid => {
                Err(Error::Invalid {
                    message: format!("{} keeps its name: {}", self.name(), refusal.message),
                })
            }
            Err(ControlError::Refused { .. }) => Err(Error::OldMonitor { name: self.name().to_owned() }),
            Err(error) => Err(error.into()),
        }
    }
}
