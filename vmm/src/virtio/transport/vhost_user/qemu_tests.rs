//! The transport with a real QEMU at its front: its firmware is the guest, and boots from our disk.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{SessionEnd, VhostUserServer};
use crate::virtio::VirtioDevice;
use crate::virtio::block::Block;
use crate::virtio::entropy::Entropy;
use crate::virtio::testing::MemoryDisk;

/// What the guest runs, in real mode, from the first sector: it looks at the second; where its mark is missing, it
/// writes that and resets the machine; where it is, it ends QEMU with the status of success.
#[rustfmt::skip]
const BOOT_CODE: [u8; 0x4c] = [
    0x31, 0xc0,                         // 00  xor ax, ax
    0x8e, 0xd8,                         // 02  mov ds, ax
    0xbe, 0x3c, 0x7c,                   // 04  mov si, packet
    0xb4, 0x42,                         // 07  mov ah, 0x42 (read)
    0xcd, 0x13,                         // 09  int 0x13
    0x72, 0x21,                         // 0b  jc failed
    0x81, 0x3e, 0x00, 0x80, 0x56, 0x4d, // 0d  cmp word [0x8000], "VM"
    0x74, 0x1d,                         // 13  je done
    0xc7, 0x06, 0x00, 0x80, 0x56, 0x4d, // 15  mov word [0x8000], "VM"
    0xbe, 0x3c, 0x7c,                   // 1b  mov si, packet
    0xb8, 0x00, 0x43,                   // 1e  mov ax, 0x4300 (write)
    0xcd, 0x13,                         // 21  int 0x13
    0x72, 0x09,                         // 23  jc failed
    0xba, 0xf9, 0x0c,                   // 25  mov dx, 0xcf9
    0xb0, 0x06,                         // 28  mov al, 6 (reset)
    0xee,                               // 2a  out dx, al
    0xf4,                               // 2b  hlt
    0xeb, 0xfd,                         // 2c  jmp 2b
    0xb0, 0x20,                         // 2e  failed: mov al, 0x20
    0xeb, 0x02,                         // 30  jmp 34
    0xb0, 0x10,                         // 32  done: mov al, 0x10
    0xba, 0x01, 0x05,                   // 34  mov dx, 0x501
    0xee,                               // 37  out dx, al: QEMU exits with 2 * al + 1
    0xf4,                               // 38  hlt
    0xeb, 0xfd,                         // 39  jmp 38
    0x90,                               // 3b
    0x10, 0, 1, 0, 0x00, 0x80, 0, 0,    // 3c  packet: one sector, to or from 0000:8000,
    1, 0, 0, 0, 0, 0, 0, 0,             // 44  sector 1
];

const SUCCESS: i32 = 0x10 * 2 + 1;

/// A device behind a socket, whose other end becomes one of QEMU's first two descriptors.
fn serve(device: impl VirtioDevice + 'static) -> (VhostUserServer, Stdio) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (VhostUserServer::start(Box::new(device), ours, "test").unwrap(), Stdio::from(OwnedFd::from(theirs)))
}

#[test]
fn a_guest_boots_from_our_disk_writes_to_it_and_does_so_again_after_a_reset() {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        eprintln!("skipped: there is no qemu-system-x86_64");
        return;
    }
    let mut contents = vec![0; 1 << 20];
    contents[..BOOT_CODE.len()].copy_from_slice(&BOOT_CODE);
    contents[510..512].copy_from_slice(&[0x55, 0xaa]);
    let disk = Arc::new(MemoryDisk::new(contents));
    let (mut disk_server, disk_socket) = serve(Block::new(disk.clone(), "boot", 2));
    let (mut entropy_server, entropy_socket) = serve(Entropy::new());

    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "q35,memory-backend=memory", "-accel", "tcg", "-m", "64", "-nodefaults"]);
    qemu.args(["-display", "none", "-object", "memory-backend-memfd,id=memory,size=64M,share=on"]);
    qemu.args(["-device", "isa-debug-exit,iobase=0x501,iosize=2"]);
    qemu.args(["-chardev", "socket,id=disk,fd=0", "-chardev", "socket,id=entropy,fd=1"]);
    qemu.args(["-device", "vhost-user-blk-pci,chardev=disk,num-queues=2,bootindex=0"]);
    qemu.args(["-device", "vhost-user-rng-pci,chardev=entropy"]);
    let output = qemu.stdin(disk_socket).stdout(entropy_socket).stderr(Stdio::piped()).spawn().unwrap();
    // The command holds our copies of QEMU's ends.
    drop(qemu);
    let output = output.wait_with_output().unwrap();

    assert_eq!(output.status.code(), Some(SUCCESS), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(disk.bytes()[512..514], *b"VM");
    for server in [&mut disk_server, &mut entropy_server] {
        // QEMU is gone, so that its end of the connection is what the session sees next.
        let mut poller = vmm_sys::Poller::new().unwrap();
        poller.add(server.ended(), 0, vmm_sys::Interest::READ).unwrap();
        assert_eq!(poller.wait(Some(crate::virtio::testing::PATIENCE)).unwrap().count(), 1);
        assert!(matches!(server.end(), Some(SessionEnd::Disconnected)), "{:?}", server.end());
        server.stop();
    }
}
