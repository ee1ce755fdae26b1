//! The disk of a VM that runs: its monitor goes on with another layer, and what lies below is written by nobody any more.
//!
//! Why what is on the host's disk is right whoever dies meanwhile is told in `monitor/layer.rs`.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use snafu::ResultExt;
use vmm_disk::{Format, LayerSpec};
use vmm_sys::FileLock;

use super::{check_depth, layer_id, root, virtual_size};
use crate::control::{Answer, Connection, ControlError, RefusalCode, Request};
use crate::home::{HomeError, VmName, VmSpec, VmState};
use crate::image::{ImageStore, NewLayer};
use crate::sandbox::Sandbox;
use crate::sandbox::error::{Error, SystemSnafu};
use crate::sandbox::link::ANSWER_TIMEOUT;

/// How long a layer may take to be added: all that the guest has not written yet is written meanwhile.
const ADD_TIMEOUT: Duration = Duration::from_secs(120);

/// A VM that runs, and whose disk nobody else changes while this lives.
pub(super) struct LiveVm<'a> {
    sandbox: &'a Sandbox,
    /// What it is. Only its monitor writes that, when a layer is added.
    pub(super) spec: VmSpec,
    _changes: FileLock,
}

impl<'a> LiveVm<'a> {
    /// Waits until nobody else changes its disk.
    pub(super) fn of(sandbox: &'a Sandbox) -> Result<Self, Error> {
        let folder = sandbox.link.folder();
        match sandbox.link.status()?.state {
            VmState::Running => {}
            VmState::Paused => return Err(Error::Paused { name: sandbox.name().to_owned() }),
            VmState::Starting => return Err(Error::NotReady { name: sandbox.name().to_owned() }),
            _ => return Err(Error::NotRunning { name: sandbox.name().to_owned() }),
        }
        let _changes = folder.lock_changes()?;
        let spec = super::read_spec(folder)?;
        if spec.configuration.root.overlay.is_some() {
            // Its file system lies out of the agent's reach, beneath the overlay, and could not be held still.
            let name = spec.display_name();
            let message = format!("the root of {name} is read-only, with an overlay over it: stop it first");
            return Err(Error::Invalid { message });
        }
        Ok(Self { sandbox, spec, _changes })
    }

    /// The layers of its disk, none of which is written any more once a layer is added.
    pub(super) fn layers(&self) -> Result<&[LayerSpec], Error> {
        Ok(&root(&self.spec)?.layers)
    }

    /// Sees on the disk what was made for a VM that leaves nothing behind, and is to stay now.
    pub(super) fn see_on_disk(&self, store: &ImageStore) -> Result<(), Error> {
        if !self.spec.ephemeral() {
            return Ok(());
        }
        for layer in self.layers()? {
            if let Some(id) = layer_id(&layer.path) {
                store.layers().see_on_disk(&id)?;
            }
        }
        Ok(())
    }

    /// Has it go on with an empty layer of its own upon its layers, which are then what the disk was at one moment, with
    /// file systems as they are when they were unmounted. What lies below is kept by the name of a snapshot, if there is
    /// one. Says how long the guest stood still.
    pub(super) fn add_layer(&self, store: &ImageStore, snapshot: Option<VmName>) -> Result<Duration, Error> {
        let layers = self.layers()?;
        check_depth(layers)?;
        let size = virtual_size(layers)?;
        let Some(top) = layers.last() else {
            return Err(HomeError::NoSuchVm { wanted: self.sandbox.name().to_owned(), nearest: None }.into());
        };
        let mut connection = self.sandbox.link.connect()?;
        let id = store.layers().draw_id()?;
        let own = Request::OwnLayer { folder: store.layers().folder_of(&id) };
        self.ask(&mut connection, own, &[], ANSWER_TIMEOUT)?;
        let new =
            NewLayer { format: Format::Qcow2, below: layer_id(&top.path), durable: !self.spec.ephemeral() };
        let make = if new.durable { vmm_disk::create_overlay } else { vmm_disk::create_overlay_unsynced };
        let layer = store.layers().create_as(id, new, |path| make(path, size))?.spec();
        let open = |layer: &LayerSpec, writable| {
            let file = File::options().read(true).write(writable).open(&layer.path);
            file.with_context(|_| SystemSnafu { what: format!("open {}", layer.path.display()) })
        };
        let files = [open(&layer, true)?, open(top, false)?];
        match self.ask(&mut connection, Request::AddLayer { layer, snapshot }, &files, ADD_TIMEOUT)? {
            Answer::LayerAdded { frozen_us } => Ok(Duration::from_micros(frozen_us)),
            _ => Err(ControlError::Malformed.into()),
        }
    }

    fn ask(
        &self,
        connection: &mut Connection,
        request: Request,
        files: &[File],
        timeout: Duration,
    ) -> Result<Answer, Error> {
        let name = || self.sandbox.name().to_owned();
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let answer = connection
            .request_with(request, &files)
            .and_then(|asked| connection.answer(asked, Some(Instant::now() + timeout), None));
        answer.map_err(|error| match error {
            ControlError::Refused { refusal } => match refusal.code {
                RefusalCode::Invalid | RefusalCode::OutOfPlace => Error::Invalid {
                    message: format!("the disk of {} stays as it is: {}", name(), refusal.message),
                },
                _ => Error::OldMonitor { name: name() },
            },
            // It ended, or was killed; what it had recorded holds.
            ControlError::Lost => Error::NotRunning { name: name() },
            error => error.into(),
        })
    }
}
