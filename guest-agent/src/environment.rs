//! The variables of a process.

use std::ffi::CString;

use vmm_protocol::{ByteString, ErrorKind};

use crate::refusal::Refusal;
use crate::users::Account;

/// Where commands are looked for unless a request or the machine says otherwise.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables by name; a later value replaces an earlier one.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    variables: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Environment {
    /// What a user's process starts with: who it is, then what the machine says, then what the request says.
    pub(crate) fn new(
        account: &Account,
        terminal: bool,
        machine: &[(ByteString, ByteString)],
        request: &[(ByteString, ByteString)],
    ) -> Result<Self, Refusal> {
        let mut environment = Self::default();
        environment.set(b"PATH", DEFAULT_PATH);
        environment.set(b"HOME", &account.home);
        environment.set(b"SHELL", &account.shell);
        if let Some(name) = &account.name {
            environment.set(b"USER", name);
            environment.set(b"LOGNAME", name);
        }
        if terminal {
            environment.set(b"TERM", b"xterm");
        }
        for (name, value) in machine.iter().chain(request) {
            check(name, value)?;
            environment.set(name.as_bytes(), value.as_bytes());
        }
        Ok(environment)
    }

    fn set(&mut self, name: &[u8], value: &[u8]) {
        match self.variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.to_vec(),
            None => self.variables.push((name.to_vec(), value.to_vec())),
        }
    }

    /// A variable's value.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// The variables as a program receives them.
    pub(crate) fn to_strings(&self) -> Vec<CString> {
        let pairs = self.variables.iter().map(|(name, value)| [name, &b"="[..], value].concat());
        // What came from outside was checked; a zero byte in a name of /etc/passwd costs only that variable.
        pairs.filter_map(|pair| CString::new(pair).ok()).collect()
    }
}

fn check(name: &ByteString, value: &ByteString) -> Result<(), Refusal> {
    let bad_name = name.as_bytes().is_empty() || name.as_bytes().iter().any(|byte| b"=\0".contains(byte));
    if bad_name || value.as_bytes().contains(&0) {
        return Err(Refusal::new(ErrorKind::Malformed, format!("{name:?} cannot be set as a variable")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            uid: 1000,
            gid: 1000,
            groups: vec![],
            name: Some(b"alice".to_vec()),
            home: b"/home/alice".to_vec(),
            shell: b"/bin/ash".to_vec(),
        }
    }

    fn pair(name: &str, value: &str) -> (ByteString, ByteString) {
        (name.into(), value.into())
    }

    #[test]
    fn the_request_goes_before_the_machine_and_the_machine_before_the_user() {
        let machine = [pair("HOME", "/srv"), pair("COLOR", "red")];
        let environment = Environment::new(&account(), true, &machine, &[pair("COLOR", "blue")]).unwrap();
        let get = |name: &str| environment.get(name.as_bytes()).map(String::from_utf8_lossy);
        assert_eq!(get("HOME").as_deref(), Some("/srv"));
        assert_eq!(get("COLOR").as_deref(), Some("blue"));
        assert_eq!(get("USER").as_deref(), Some("alice"));
        assert_eq!(get("TERM").as_deref(), Some("xterm"));
        let strings = environment.to_strings();
        assert_eq!(strings.iter().filter(|string| string.as_bytes().starts_with(b"COLOR=")).count(), 1);
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
            let refusal = Environment::new(&account(), false, &[], &[pair(name, value)]).unwrap_err();
            assert_eq!(refusal.kind, ErrorKind::Malformed);
        }
    }
}
