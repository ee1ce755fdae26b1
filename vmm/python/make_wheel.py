#!/usr/bin/env python3
"""Makes the wheel: the Python files, the shared library and the executable, in the zip that pip installs.

    make_wheel.py FOLDER TARGET

FOLDER has libvmm.so and vmm, TARGET is the folder that the wheel is put into; its path is printed. The same files make the
same wheel. `cargo wheel` builds them and calls this.
"""

import base64
import hashlib
import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

METADATA = """\
Metadata-Version: 2.1
Name: vmm
Version: {version}
Summary: Virtual machines for running code in a sandbox
License: MIT OR Apache-2.0
Requires-Python: >=3.9
Classifier: Operating System :: POSIX :: Linux
Classifier: Typing :: Typed
"""

WHEEL = """\
Wheel-Version: 1.0
Generator: vmm
Root-Is-Purelib: false
Tag: {tag}
"""

ENTRY_POINTS = """\
[console_scripts]
vmm = vmm.__main__:main
"""


def main() -> None:
    """Reads the arguments and makes it."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    built, target = Path(sys.argv[1]), Path(sys.argv[2])
    native = {name: read(built / name) for name in ("libvmm.so", "vmm")}
    version = version_of(built / "vmm")
    tag = f"py3-none-{platform_tag(native.values())}"
    info = f"vmm-{version}.dist-info"
    files = {f"vmm/{path.name}": path.read_bytes() for path in sorted((HERE / "vmm").iterdir()) if path.is_file()}
    files.update({f"vmm/native/{name}": data for name, data in native.items()})
    files[f"{info}/METADATA"] = METADATA.format(version=version).encode()
    files[f"{info}/WHEEL"] = WHEEL.format(tag=tag).encode()
    files[f"{info}/entry_points.txt"] = ENTRY_POINTS.encode()
    record = "".join(f"{name},sha256={digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()

    target.mkdir(parents=True, exist_ok=True)
    wheel = target / f"vmm-{version}-{tag}.whl"
    partial = wheel.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            # No time of day, so that the same files make the same wheel.
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if name.startswith("vmm/native/") else 0o100644) << 16
            archive.writestr(entry, data)
    os.replace(partial, wheel)
    print(wheel)


def read(path: Path) -> bytes:
    """A file that was built."""
    try:
        return path.read_bytes()
    except OSError as error:
        sys.exit(f"{error}: build it first, with `cargo wheel`")


def version_of(executable: Path) -> str:
    """The version, as the executable itself says it."""
    said = subprocess.run([executable, "--version"], check=True, capture_output=True, text=True).stdout
    return said.split()[1]


def platform_tag(binaries) -> str:
    """The oldest systems that can load them: those that have the newest version of the C library that one asks for."""
    versions = {match for data in binaries for match in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", data)}
    if not versions:
        sys.exit("the files name no version of the C library: they are not for Linux with glibc")
    major, minor = max((int(major), int(minor)) for major, minor in versions)
    return f"manylinux_{major}_{minor}_{platform.machine()}"


def digest(data: bytes) -> str:
    """As RECORD writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    main()
