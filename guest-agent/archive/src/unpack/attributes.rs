//! What a member gets beside its contents: owner, extended attributes, mode, times.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, futimens, utimensat,
};
use rustix::io::Errno;

use super::{Making, Owner, Unpacker};
use crate::member::{Attribute, Kind, Member, Time};

impl Unpacker {
    /// Owner, extended attributes, mode and times of a file or folder that is open.
    pub(super) fn attributes(&mut self, member: &Member, file: BorrowedFd<'_>) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner(member) {
            fchown(file, Some(uid), Some(gid))?;
        }
        for Attribute { name, value } in &member.attributes {
            if !self.takes(name) {
                continue;
            }
            match fsetxattr(file, &name[..], value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP) => self.attributes_lost += 1,
                Err(errno) => return Err(errno.into()),
            }
        }
        // After the owner, whose change takes these bits.
        fchmod(file, self.mode(member))?;
        Ok(futimens(file, &times(member.modified))?)
    }

    /// The same of what cannot be opened.
    pub(super) fn name_attributes(
        &self,
        member: &Member,
        folder: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Making> {
        if let Some((uid, gid)) = self.owner(member) {
            chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(utimensat(folder, name, &times(member.modified), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// A folder that the archive does not name belongs to whom the others are given.
    pub(super) fn change_owner_of_implied(&self, folder: &OwnedFd) -> io::Result<()> {
        if let Owner::Given { uid, gid } = self.options.owner {
            fchown(folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok(())
    }

    pub(super) fn owner(&self, member: &Member) -> Option<(Uid, Gid)> {
        let (uid, gid) = match self.options.owner {
            Owner::Us => return None,
            Owner::Kept => (member.uid, member.gid),
            Owner::Given { uid, gid } => (uid, gid),
        };
        Some((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    pub(super) fn mode(&mut self, member: &Member) -> Mode {
        let mut mode = member.mode & 0o7777;
        if !self.options.set_id && mode & 0o6000 != 0 {
            mode &= 0o1777;
            self.set_id_taken += u64::from(member.kind != Kind::Folder);
        }
        Mode::from_raw_mode(mode)
    }

    /// Whether an extended attribute is one that an archive may give: labels of the system's security are not.
    pub(super) fn takes(&self, name: &[u8]) -> bool {
        match name {
            b"security.capability" => self.options.set_id,
            b"system.posix_acl_access" | b"system.posix_acl_default" => self.options.owner == Owner::Kept,
            name => name.starts_with(b"user."),
        }
    }
}

/// How much memory a member's extended attributes take.
pub(super) fn weight(member: &Member) -> usize {
    let attributes = member.attributes.iter();
    attributes.map(|attribute| attribute.name.len() + attribute.value.len() + 64).sum()
}

fn times(modified: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() },
    }
}
