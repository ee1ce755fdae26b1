//! What the host told us to be, applied to the system. Nothing here is worth not to start for.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::mount_bind;
use rustix::system::sethostname;
use vmm_protocol::Configuration;

use crate::{clock, console};

/// Applies everything but the root.
pub(super) fn apply(configuration: &Configuration) {
    let warn = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            console::line(&format!("cannot {what}: {error}"));
        }
    };
    if let Some(time) = configuration.time_ns {
        warn("set the clock", clock::set(time));
    }
    if !configuration.entropy.is_empty() {
        warn("give the kernel entropy", vmm_sys::entropy::credit(&configuration.entropy));
    }
    if configuration.root.grow {
        warn("make the root as large as its disk", super::root::grow(&configuration.root));
    }
    warn("set the host name", set_host_name(configuration.host_name.as_deref()));
    if let Some(text) = &configuration.resolv_conf {
        warn("write /etc/resolv.conf", write_resolv_conf(Path::new("/etc/resolv.conf"), text));
    }
    warn("set up the loopback interface", raise_loopback());
}

/// The name that we were told, or the image's own.
fn set_host_name(name: Option<&str>) -> io::Result<()> {
    let text = match name {
        Some(name) => name.to_owned(),
        None => fs::read_to_string("/etc/hostname").unwrap_or_default(),
    };
    match text.lines().next().map(str::trim) {
        None | Some("") => Ok(()),
        Some(name) => Ok(sethostname(name.as_bytes())?),
    }
}

/// Writes the file; where the root is read-only, mounts ours on it.
fn write_resolv_conf(path: &Path, text: &str) -> io::Result<()> {
    let write = |path: &Path| {
        let mut file = fs::File::options();
        file.write(true).create(true).truncate(true).mode(0o644);
        // A link leads to a file of the image's own resolver, which does not run or is to be replaced.
        let file = file.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path);
        file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
    };
    let error = match write(path) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => {
            fs::remove_file(path)?;
            write(path)
        }
        Some(Errno::ROFS) => {
            let ours = Path::new("/run/resolv.conf");
            write(ours)?;
            Ok(mount_bind(ours, path)?)
        }
        _ => Err(error),
    }
}

/// Raises the interface `lo`, which is always the first; the kernel gives it its addresses.
fn raise_loopback() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const IFF_UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    // struct nlmsghdr: length, type, flags, sequence, port (rtnetlink(7)).
    message.extend(32u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg: family and type, index, flags, which flags to change.
    message.extend([0; 4]);
    message.extend(1u32.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(netlink.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_over_and_a_link_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(&path, "something longer than what comes").unwrap();
        write_resolv_conf(&path, "nameserver 10.0.2.3\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 10.0.2.3\n");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/run/elsewhere/stub.conf", &path).unwrap();
        write_resolv_conf(&path, "nameserver 10.0.2.4\n").unwrap();
        assert!(path.symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 10.0.2.4\n");
    }
}
