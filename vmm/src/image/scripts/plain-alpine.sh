# Makes the disk that another monitor ships a plain Alpine. What it brings beside Alpine's packages goes; the files of
# packages that it changed get their packages' contents back, byte for byte, as the checksums in apk's database say.

# Its agent, a service of its boot.
rm -f /etc/runlevels/boot/quicksand-guest-agent /etc/init.d/quicksand-guest-agent /usr/local/bin/quicksand-guest-agent
# Its user, who may become root without a password.
rm -f /etc/sudoers.d/quicksand
sed -i '/^quicksand:/d' /etc/passwd /etc/shadow /etc/group
rm -rf /home/quicksand
# Its network: a name server and an address that are its own.
rm -f /etc/runlevels/sysinit/setup-dns /etc/init.d/setup-dns /etc/resolv.conf.quicksand
printf 'auto lo\niface lo inet loopback\n' >/etc/network/interfaces
# The mark of the container that the disk was made in.
rm -f /.dockerenv
# Names that it had emptied, and the file system of its shared folders.
printf 'localhost\n' >/etc/hostname
printf '127.0.0.1\tlocalhost localhost.localdomain\n::1\t\tlocalhost localhost.localdomain\n' >/etc/hosts
printf 'af_packet\nipv6\n' >/etc/modules
