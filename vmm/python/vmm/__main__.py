"""``python -m vmm`` and the command ``vmm``: the executable that this package carries."""

import os
import sys


def main() -> None:
    """Becomes ``vmm``."""
    executable = os.path.join(os.path.dirname(os.path.abspath(__file__)), "native", "vmm")
    os.execv(executable, [executable, *sys.argv[1:]])


if __name__ == "__main__":
    main()
