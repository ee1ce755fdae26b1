//! Who a process runs as: users and groups, read from `/etc/passwd` and `/etc/group` without the C library's name
//! services, which a static program does not have.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use vmm_protocol::ErrorKind;

use crate::refusal::Refusal;

/// A user as a process needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The name, if the user has one.
    pub name: Option<Vec<u8>>,
    /// The home folder.
    pub home: Vec<u8>,
    /// The login shell.
    pub shell: Vec<u8>,
}

/// A line of `/etc/passwd`.
struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
    shell: &'a [u8],
}

/// Finds whom a request names: `user`, `user:group`, `uid` or `uid:gid`; root when it names nobody.
pub(crate) fn find(user: Option<&str>) -> Result<Account, Refusal> {
    let passwd = read(Path::new("/etc/passwd"));
    match user {
        None => Ok(root(&passwd)),
        Some(user) => find_in(user, &passwd, &read(Path::new("/etc/group"))),
    }
}

/// The names of all users by their numbers; the first of several.
pub(crate) fn names() -> HashMap<u32, Vec<u8>> {
    let mut names = HashMap::new();
    for entry in entries(&read(Path::new("/etc/passwd"))) {
        names.entry(entry.uid).or_insert_with(|| entry.name.to_vec());
    }
    names
}

/// A file of the guest's, which may be missing. One that is no ordinary file must not stop us.
fn read(path: &Path) -> Vec<u8> {
    /// Nobody has so many users; a file that never ends must not eat the memory.
    const LIMIT: u64 = 4 << 20;
    // All of an ordinary one at once.
    let mut bytes = Vec::with_capacity(16 << 10);
    if let Ok(file) = File::options().read(true).custom_flags(libc_nonblock()).open(path) {
        let _ = file.take(LIMIT).read_to_end(&mut bytes);
    }
    bytes
}

fn libc_nonblock() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

/// Root without supplementary groups: it needs none.
fn root(passwd: &[u8]) -> Account {
    match entries(passwd).find(|entry| entry.uid == 0) {
        Some(entry) => account(&entry),
        None => Account {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            name: Some(b"root".to_vec()),
            home: b"/".to_vec(),
            shell: b"/bin/sh".to_vec(),
        },
    }
}

fn find_in(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Account, Refusal> {
    let (user, group_spec) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let mut account = find_user(user, passwd)?;
    match group_spec {
        // As container engines do: a group that is named is the only one.
        Some(group_spec) => account.gid = find_group(group_spec, group)?,
        None => {
            if let Some(name) = &account.name {
                account.groups = groups_of(name, account.gid, group);
            }
        }
    }
    Ok(account)
}

fn find_user(user: &str, passwd: &[u8]) -> Result<Account, Refusal> {
    if let Some(entry) = entries(passwd).find(|entry| entry.name == user.as_bytes()) {
        return Ok(account(&entry));
    }
    let Some(uid) = number(user.as_bytes()) else {
        let message = format!("there is no user {user:?} in the guest's /etc/passwd");
        return Err(Refusal::new(ErrorKind::NoSuchUser, message));
    };
    Ok(match entries(passwd).find(|entry| entry.uid == uid) {
        Some(entry) => account(&entry),
        // A user whom the image does not know gets the group of the same number, never root's.
        None => Account {
            uid,
            gid: uid,
            groups: Vec::new(),
            name: None,
            home: b"/".to_vec(),
            shell: b"/bin/sh".to_vec(),
        },
    })
}

fn find_group(spec: &str, group: &[u8]) -> Result<u32, Refusal> {
    let named = lines(group).find_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        (fields.next() == Some(spec.as_bytes())).then(|| number(fields.nth(1)?)).flatten()
    });
    named.or_else(|| number(spec.as_bytes())).ok_or_else(|| {
        Refusal::new(ErrorKind::NoSuchUser, format!("there is no group {spec:?} in the guest's /etc/group"))
    })
}

fn groups_of(name: &[u8], gid: u32, group: &[u8]) -> Vec<u32> {
    let mut groups = vec![gid];
    for line in lines(group) {
        let mut fields = line.split(|&byte| byte == b':');
        let (Some(number), Some(members)) = (fields.nth(2).and_then(number), fields.next()) else { continue };
        if members.split(|&byte| byte == b',').any(|member| member == name) && !groups.contains(&number) {
            groups.push(number);
        }
    }
    groups
}

fn account(entry: &PasswdEntry<'_>) -> Account {
    let or = |text: &[u8], default: &[u8]| if text.is_empty() { default.to_vec() } else { text.to_vec() };
    Account {
        uid: entry.uid,
        gid: entry.gid,
        groups: Vec::new(),
        name: Some(entry.name.to_vec()),
        home: or(entry.home, b"/"),
        shell: or(entry.shell, b"/bin/sh"),
    }
}

fn entries(passwd: &[u8]) -> impl Iterator<Item = PasswdEntry<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        let home = fields.nth(1)?;
        let shell = fields.next().unwrap_or_default();
        Some(PasswdEntry { name, uid, gid, home, shell })
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

/// A number of a user or a group. The highest means "none" to the system.
fn number(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = if digits { std::str::from_utf8(text).ok()?.parse().ok()? } else { return None };
    (number != u32::MAX).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/ash\n\
        broken line\n\
        alice:x:1000:1001:Alice,,,:/home/alice:/bin/bash\n\
        service:x:2000:2000::/:\n\
        1234:x:77:77::/seventy-seven:/bin/sh\n";
    const GROUP: &[u8] =
        b"root:x:0:root\nwheel:x:10:root,alice\nalice:x:1001:\naudio:x:18:bob,alice,carol\nvideo:x:27:bob\n";

    fn numbers(spec: &str) -> (u32, u32, Vec<u32>) {
        let account = find_in(spec, PASSWD, GROUP).unwrap();
        (account.uid, account.gid, account.groups)
    }

    #[test]
    fn a_user_has_the_groups_that_name_it() {
        assert_eq!(numbers("alice"), (1000, 1001, vec![1001, 10, 18]));
        assert_eq!(numbers("1000"), (1000, 1001, vec![1001, 10, 18]));
        let alice = find_in("alice", PASSWD, GROUP).unwrap();
        assert_eq!((alice.home, alice.shell), (b"/home/alice".to_vec(), b"/bin/bash".to_vec()));
    }

    #[test]
    fn a_group_that_is_named_is_the_only_one() {
        assert_eq!(numbers("alice:video"), (1000, 27, vec![]));
        assert_eq!(numbers("alice:4242"), (1000, 4242, vec![]));
        assert_eq!(numbers("55:66"), (55, 66, vec![]));
    }

    #[test]
    fn a_number_that_nobody_has_is_its_own_group_and_a_name_goes_before_a_number() {
        assert_eq!(numbers("4711"), (4711, 4711, vec![]));
        assert_eq!(numbers("1234"), (77, 77, vec![77]));
    }

    #[test]
    fn who_does_not_exist_is_refused() {
        for spec in
            ["bob", "", "-1", "+5", "4294967295", "4294967296", "alice:nobody", "alice:", "broken line"]
        {
            let refusal = find_in(spec, PASSWD, GROUP).unwrap_err();
            assert_eq!(refusal.kind, ErrorKind::NoSuchUser, "{spec:?}");
        }
    }

    #[test]
    fn a_guest_without_users_still_has_root() {
        assert_eq!(root(b"").uid, 0);
        assert_eq!(root(PASSWD).shell, b"/bin/ash");
        let shell_less = find_in("service", PASSWD, GROUP).unwrap();
        assert_eq!(shell_less.shell, b"/bin/sh");
    }
}
