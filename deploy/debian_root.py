"""A Debian file system of its own, and commands that run in it, as in a container but without one.

It is made with debootstrap and entered with chroot, which both take root rights. What a command
sees mounted (/proc, /dev, an empty /tmp) is mounted in a namespace of its own and gone with it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

SUITE = "bookworm"  # that of the Dockerfile's base image, which brings Python too
PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PROGRAMS = ("debootstrap", "unshare", "chroot")


class DebianRoot:
    """The root at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def possible() -> bool:
        """Whether this machine can make one and enter it."""
        return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)

    def make(self) -> None:
        """Fetch Debian's packages and unpack them.

        Raises:
            SystemExit: that failed.
        """
        options = ["--variant=minbase", f"--include={PACKAGES}", SUITE]
        done = subprocess.run(
            ["debootstrap", *options, str(self.path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"debootstrap failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        # The network's name server and certificates are this machine's.
        shutil.copy("/etc/resolv.conf", self.path / "etc")
        if CERTIFICATES.is_file():
            shutil.copy(CERTIFICATES, self.path / CERTIFICATES.relative_to("/"))
        (self.path / "usr/local/bin/python").symlink_to("/usr/bin/python3")

    def copy_to(self, path: Path) -> DebianRoot:
        """A second one like it."""
        self.copy(self.path, path)
        return DebianRoot(path)

    @staticmethod
    def copy(source: Path, target: Path) -> None:
        """Copy a tree with owners, modes and links; what the target holds beside it stays."""
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)

    def command(
        self,
        arguments: Sequence[str],
        *,
        directory: str,
        environment: Mapping[str, str],
        user: str = "0:0",
        read_only: bool = False,
        mounted: Mapping[Path, str] | None = None,
    ) -> list[str]:
        """What to start on this machine so that ``arguments`` run inside.

        Args:
            directory: the working directory inside.
            environment: the whole environment.
            user: ids of user and group.
            read_only: whether the root cannot be written to, but for /tmp and what is mounted.
            mounted: folders of this machine, and where they are seen inside.
        """
        root = shlex.quote(str(self.path))
        lines = ["set -e", f"mount --bind {root} {root}"]
        for source, place in (mounted or {}).items():
            (self.path / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --bind {shlex.quote(str(source))} {root}{shlex.quote(place)}")
        if read_only:
            lines.append(f"mount -o remount,ro,bind {root}")
        lines += [
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"mount -t tmpfs tmpfs {root}/tmp",  # noqa: S108 - nobody else sees it
        ]
        variables = [f"{name}={value}" for name, value in environment.items()]
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', directory, *arguments]
        entered = ["chroot", f"--userspec={user}", str(self.path), "env", "-i", *variables]
        script = "\n".join([*lines, f"exec {shlex.join([*entered, *inside])}"])
        return ["unshare", "--mount", "sh", "-c", script]
