"""A mount and a network namespace of the round's own: file systems can be filled and the loopback interface slowed down
without anybody else noticing, and both are gone with the last process in them."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

NEW_MOUNTS, NEW_NETWORK = 0x00020000, 0x40000000  # flags of unshare(2)
PROGRAMS = ("mount", "umount", "ip", "tc")
# Packets as small as on a wire: the loopback interface's own have up to 64 kB.
LINK = "ip link set dev lo up mtu 1500 gso_max_size 1500 gso_max_segs 1"


def enter() -> str:
    """Move this process, and all that it starts from now on, into the namespaces. Returns "", or why that cannot be.

    To be called before any thread is started.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux has file systems and a network of its own"
    if lacking := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"these programs are missing: {', '.join(lacking)}"
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS | NEW_NETWORK):
        return f"no namespaces: {os.strerror(ctypes.get_errno())}"
    for command in ("mount --make-rprivate /", LINK):
        run(command)
    return ""


def run(command: str) -> str:
    """A command of the system, words separated by spaces; what it printed. Raises `subprocess.CalledProcessError`."""
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout  # noqa: S603
