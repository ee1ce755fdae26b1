//! Whose files become that are copied out of a guest.

use nix::unistd::{Group, Uid, User};
use vmm_archive::Owner;

use super::{CopyOwner, Failure};

/// Whose files become that are copied out of a guest.
pub(super) fn owner_here(owner: &CopyOwner) -> Result<Owner, Failure> {
    let owner = match owner {
        CopyOwner::Usual if !Uid::effective().is_root() => return Ok(Owner::Us),
        CopyOwner::Usual | CopyOwner::Keep => return Ok(Owner::Kept),
        CopyOwner::Named(owner) => owner,
    };
    let (user, group) = match owner.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (owner.as_str(), None),
    };
    let invalid =
        |what: &str, name: &str| Failure::Invalid(format!("there is no {what} {name:?} on the host"));
    let account = match User::from_name(user) {
        Ok(Some(account)) => Some(account),
        _ => user.parse().ok().and_then(|uid| User::from_uid(Uid::from_raw(uid)).ok().flatten()),
    };
    let uid = match (&account, user.parse()) {
        (Some(account), _) => account.uid.as_raw(),
        (None, Ok(uid)) => uid,
        _ => return Err(invalid("user", user)),
    };
    let gid = match group {
        // Of a user without an account the group of the same number.
        None => account.map_or(uid, |account| account.gid.as_raw()),
        Some(group) => match (Group::from_name(group), group.parse()) {
            (Ok(Some(group)), _) => group.gid.as_raw(),
            (_, Ok(gid)) => gid,
            _ => return Err(invalid("group", group)),
        },
    };
    Ok(Owner::Given { uid, gid })
}
