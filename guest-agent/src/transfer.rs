//! Files into the guest and out of it, as archives: a worker's work.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Shutdown;
use vmm_archive::{Failure, Owner, PackOptions, Packer, Place, UnpackOptions, root_name};
use vmm_protocol::transfer::Outcome;
use vmm_protocol::{
    Answer, ErrorKind, Holds, Pack, PieceError, PieceReader, PieceWriter, Reply, Totals, Transfer, Unpack,
    header,
};

use crate::refusal::Refusal;
use crate::users;
use crate::worker::{answer, path_of};

/// How long a client may go on sending what is not wanted any more.
const DRAIN: Duration = Duration::from_secs(30);

/// Brings files in or out for a client.
pub(crate) fn serve(client: &File, transfer: &Transfer) -> io::Result<()> {
    match transfer {
        Transfer::Unpack(request) => unpack(client, request),
        Transfer::Pack(request) => pack(client, request),
    }
}

fn unpack(mut client: &File, request: &Unpack) -> io::Result<()> {
    let prepared = options_for(request).and_then(|options| {
        let place =
            Place::find(&path_of(&request.path)?, holds(request.holds)).map_err(|error| refusal(&error))?;
        Ok((options, place))
    });
    let (options, place) = match prepared {
        Ok(prepared) => prepared,
        Err(refusal) => return answer(client, &refusal.into()),
    };
    answer(client, &Answer::Ok(Reply::Transferring))?;
    let mut pieces = PieceReader::new(client);
    let unpacked = vmm_archive::unpack(&mut pieces, place, options).and_then(|unpacked| {
        let totals = Totals {
            entries: unpacked.entries,
            set_id_taken: unpacked.set_id_taken,
            attributes_lost: unpacked.attributes_lost,
            ..pieces.totals().cloned().unwrap_or_default()
        };
        unpacked.commit().map(|()| totals)
    });
    let outcome = match unpacked {
        Ok(totals) => Outcome::Done(totals),
        Err(error) => {
            let Refusal { kind, message } = refusal(&error);
            Outcome::Failed { kind, message }
        }
    };
    header::write(&mut client, &outcome).map_err(io::Error::other)?;
    rustix::net::shutdown(client, Shutdown::Write)?;
    drain(client);
    Ok(())
}

fn pack(client: &File, request: &Pack) -> io::Result<()> {
    let paths = request.paths.iter().map(path_of).collect::<Result<Vec<_>, _>>();
    let paths = paths.and_then(|paths| {
        // What is not there at all is told before anything is sent.
        let missing = paths.iter().find_map(|path| Some((path, path.symlink_metadata().err()?)));
        match missing {
            Some((path, source)) => {
                Err(refusal(&vmm_archive::Error::File { what: "read", path: path.clone(), source }))
            }
            None => Ok(paths),
        }
    });
    let paths = match paths {
        Ok(paths) => paths,
        Err(refusal) => return answer(client, &refusal.into()),
    };
    answer(client, &Answer::Ok(Reply::Transferring))?;
    let options = PackOptions { devices: request.devices, follow: request.follow };
    let mut pieces = PieceWriter::new(client);
    let mut packer = Packer::new(&mut pieces, options);
    let packed = paths.iter().try_for_each(|path| packer.add(path, &root_name(path)));
    match packed.and_then(|()| packer.finish()) {
        Ok((_, packed)) => {
            let totals = Totals { entries: packed.entries, sockets: packed.sockets, ..Totals::default() };
            pieces.finish(totals).map_err(io::Error::other)?;
        }
        Err(error) => {
            let Refusal { kind, message } = refusal(&error);
            pieces.fail(kind, message).map_err(io::Error::other)?;
        }
    }
    rustix::net::shutdown(client, Shutdown::Write)?;
    drain(client);
    Ok(())
}

/// Reads what the client has still to send, for a while: a connection that is closed before takes with it what was said
/// last.
fn drain(mut client: &File) {
    let deadline = Instant::now() + DRAIN;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        let waited = poll(&mut [PollFd::new(&client, PollFlags::IN)], left.as_ref());
        if !matches!(waited, Ok(1..)) || !matches!(client.read(&mut buffer), Ok(1..)) {
            return;
        }
    }
}

fn options_for(request: &Unpack) -> Result<UnpackOptions, Refusal> {
    let owner = match request.owner.as_deref() {
        None => Owner::Kept,
        Some(owner) => {
            let account = users::find(Some(owner))?;
            Owner::Given { uid: account.uid, gid: account.gid }
        }
    };
    Ok(UnpackOptions { owner, set_id: request.set_id, devices: request.devices, max_entries: None })
}

fn holds(holds: Holds) -> vmm_archive::Holds {
    match holds {
        Holds::One => vmm_archive::Holds::One,
        Holds::File => vmm_archive::Holds::File,
        Holds::Several => vmm_archive::Holds::Several,
        Holds::Anything => vmm_archive::Holds::Anything,
    }
}

/// An error in the protocol's words.
fn refusal(error: &vmm_archive::Error) -> Refusal {
    // The client's own failure, which it told itself.
    if let vmm_archive::Error::Stream { source } = error
        && let Some(PieceError::Failed { kind, message }) =
            source.get_ref().and_then(|inner| inner.downcast_ref())
    {
        return Refusal::new(*kind, message.clone());
    }
    let kind = match error.failure() {
        Failure::NoSuchFile => ErrorKind::NoSuchFile,
        Failure::NotPermitted => ErrorKind::NotPermitted,
        Failure::NoSpace => ErrorKind::NoSpace,
        Failure::Unfit => ErrorKind::UnfitFile,
        Failure::BadArchive | Failure::Stream => ErrorKind::BadArchive,
        Failure::Other => ErrorKind::File,
    };
    Refusal::new(kind, error.line())
}
