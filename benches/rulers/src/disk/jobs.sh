#!/bin/sh
# Runs fio as the host says, a line for each job: the PCI slot of a disk, and what to tell fio.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1
echo READY
while read -r slot arguments; do
    device=$(ls "/sys/bus/pci/devices/0000:00:$slot.0"/virtio*/block)
    # The words of the arguments are meant to be split.
    # shellcheck disable=SC2086
    fio --name=job --filename="/dev/$device" --output-format=json --output=/run/report $arguments 2>/run/errors
    echo "STATUS $?"
    cat /run/errors /run/report
    echo END
done
