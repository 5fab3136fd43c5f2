"""Fetch the browser libraries that the pages use and keep them honest.

``python3 -m portal.vendoring`` downloads each package named in ``PACKAGES`` from the npm registry, compares the tarball
with the sha512 in ``portal/static/vendor/vendor.lock`` and extracts the few files that we serve, each with its licence
beside it. The result is committed, so neither running nor testing the portal needs node or a network.

``--check`` compares the committed files with the lock; ``--relock`` records new versions after ``PACKAGES`` was edited.
Only the standard library is used: this must run before any environment exists.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portal.vendored_icons import FILLED_ICONS, OUTLINE_ICONS

VENDOR_DIR = Path(__file__).parent / "static" / "vendor"
LOCK_NAME = "vendor.lock"

Members = Mapping[str, bytes]


class VendoringError(Exception):
    """A package, a committed file or the lock is not what it should be."""


@dataclass(frozen=True)
class Package:
    """One npm package and the files we make out of it.

    ``outputs`` maps a path under the vendor folder to a function from the tarball's members to that file's bytes.
    """

    name: str
    version: str
    licence: str
    outputs: Mapping[str, Callable[[Members], bytes]] = field(hash=False)


def copied(member: str) -> Callable[[Members], bytes]:
    """Return a maker of ``member`` without its source map comment, which would point at a file that we do not ship."""

    def make(members: Members) -> bytes:
        return re.sub(rb"\n?(/\*#|//#) sourceMappingURL=[^\n]*", b"", members[member])

    return make


def as_module(member: str, exported: str) -> Callable[[Members], bytes]:
    """Return a maker of ``member`` with a default export: the minified builds are scripts, our code is modules."""

    def make(members: Members) -> bytes:
        return copied(member)(members).rstrip() + f"\nexport default {exported};\n".encode()

    return make


def tabler_licence(members: Members) -> bytes:
    """Return the MIT text for Tabler, whose tarball has no licence file; the holder is named in its style sheet."""
    banner = members["dist/css/tabler.min.css"][:600].decode()
    holders = re.findall(r"^ \* (Copyright [^\n]+)$", banner, flags=re.MULTILINE)
    if not holders or "Licensed under MIT" not in banner:
        raise VendoringError("tabler.min.css no longer names its copyright holder and the MIT licence")
    return ("MIT License\n\n" + "\n".join(holders) + "\n\n" + MIT_TEXT).encode()


def icon_sprite(members: Members) -> bytes:
    """Return one SVG with a ``<symbol>`` per icon; filled icons carry the suffix ``-filled``."""
    symbols = [_symbol(members[f"icons/outline/{name}.svg"], name, OUTLINE_PAINT) for name in OUTLINE_ICONS]
    symbols += [_symbol(members[f"icons/filled/{name}.svg"], f"{name}-filled", FILLED_PAINT) for name in FILLED_ICONS]
    return ('<svg xmlns="http://www.w3.org/2000/svg">\n' + "\n".join(symbols) + "\n</svg>\n").encode()


OUTLINE_PAINT = 'fill="none" stroke="currentColor" stroke-width="1.75" stroke-linecap="round" stroke-linejoin="round"'
FILLED_PAINT = 'fill="currentColor"'


def _symbol(source: bytes, name: str, paint: str) -> str:
    shapes = re.findall(r"<(?:path|circle|rect|line|polyline)\b[^>]*/>", source.decode())
    drawn = "".join(re.sub(r"\s+", " ", shape) for shape in shapes if "M0 0h24v24H0z" not in shape)
    if not drawn:
        raise VendoringError(f"icon {name} has no shape that we know")
    return f'<symbol id="{name}" viewBox="0 0 24 24" {paint}>{drawn}</symbol>'


MIT_TEXT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

PACKAGES = (
    Package(
        name="@tabler/core",
        version="1.6.1",
        licence="MIT",
        # No tabler.min.js: menus, dialogs and the drawer are native elements (details, dialog, popover).
        outputs={
            "tabler/tabler.min.css": copied("dist/css/tabler.min.css"),
            "tabler/LICENSE.txt": tabler_licence,
        },
    ),
    Package(
        name="@tabler/icons",
        version="3.51.0",
        licence="MIT",
        outputs={"tabler-icons/icons.svg": icon_sprite, "tabler-icons/LICENSE.txt": copied("LICENSE")},
    ),
    Package(
        name="htmx.org",
        version="2.0.11",
        licence="0BSD",
        outputs={"htmx/htmx.min.js": copied("dist/htmx.min.js"), "htmx/LICENSE.txt": copied("LICENSE")},
    ),
    Package(
        name="tus-js-client",
        version="4.3.1",
        licence="MIT",
        outputs={
            "tus/tus.min.js": as_module("dist/tus.min.js", "globalThis.tus"),
            "tus/LICENSE.txt": copied("LICENSE"),
        },
    ),
    Package(
        name="uplot",
        version="1.6.32",
        licence="MIT",
        outputs={
            "uplot/uPlot.min.js": as_module("dist/uPlot.iife.min.js", "uPlot"),
            "uplot/uPlot.min.css": copied("dist/uPlot.min.css"),
            "uplot/LICENSE.txt": copied("LICENSE"),
        },
    ),
)


def integrity(content: bytes) -> str:
    """Return npm's notation of a sha512: ``sha512-`` and base64."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def read_lock(vendor_dir: Path = VENDOR_DIR) -> dict[str, dict[str, Any]]:
    """Return the lock's packages by name. Raises VendoringError if there is no readable lock."""
    try:
        packages = json.loads((vendor_dir / LOCK_NAME).read_text())["packages"]
        return {package["name"]: package for package in packages}
    except (OSError, ValueError, KeyError) as error:
        raise VendoringError(f"cannot read {LOCK_NAME}: {error}") from error


def problems(vendor_dir: Path = VENDOR_DIR) -> list[str]:
    """Return one sentence for each committed file that differs from the lock; empty means all is well."""
    locked = {path: digest for package in read_lock(vendor_dir).values() for path, digest in package["files"].items()}
    present = {
        str(path.relative_to(vendor_dir)): path
        for path in vendor_dir.rglob("*")
        if path.is_file() and path.name != LOCK_NAME
    }
    found = [f"{path} is not in the lock" for path in sorted(present.keys() - locked.keys())]
    found += [f"{path} is missing" for path in sorted(locked.keys() - present.keys())]
    for path in sorted(present.keys() & locked.keys()):
        if integrity(present[path].read_bytes()) != locked[path]:
            found.append(f"{path} differs from the lock")
    return found


def download(package: Package, folder: Path) -> bytes:
    """Return the package's tarball as the registry serves it. Raises VendoringError if npm cannot get it."""
    command = ["npm", "pack", f"{package.name}@{package.version}", "--silent", "--pack-destination", str(folder)]
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        raise VendoringError(f"npm pack {package.name}@{package.version} failed: {error}") from error
    return (folder / answer.stdout.split()[-1]).read_bytes()


def unpack(tarball: bytes, folder: Path) -> Members:
    """Return the files of an npm tarball by their path below ``package/``; nothing is written by their names."""
    archive = folder / "package.tgz"
    archive.write_bytes(tarball)
    with tarfile.open(archive) as tar:
        files = ((member, tar.extractfile(member)) for member in tar.getmembers() if member.isfile())
        return {member.name.split("/", 1)[1]: content.read() for member, content in files if content}


def vendor(package: Package, tarball: bytes, vendor_dir: Path) -> dict[str, Any]:
    """Write the package's files under ``vendor_dir`` and return its lock entry."""
    with tempfile.TemporaryDirectory() as folder:
        members = unpack(tarball, Path(folder))
    digests = {}
    for path, make in package.outputs.items():
        target = vendor_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        content = make(members)
        target.write_bytes(content)
        digests[path] = integrity(content)
    return {
        "name": package.name,
        "version": package.version,
        "licence": package.licence,
        "integrity": integrity(tarball),
        "files": digests,
    }


def fetch_all(vendor_dir: Path = VENDOR_DIR, *, relock: bool = False) -> None:
    """Fetch, verify and extract every package, then write the lock.

    Raises: VendoringError if a tarball is not the locked one, unless ``relock`` accepts it as the new truth.
    """
    locked = {} if relock else read_lock(vendor_dir)
    entries = []
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as folder:
            tarball = download(package, Path(folder))
        expected = locked.get(package.name, {}).get("integrity")
        if not relock and integrity(tarball) != expected:
            raise VendoringError(f"{package.name}@{package.version} is not the locked package; --relock accepts it")
        entries.append(vendor(package, tarball, vendor_dir))
    (vendor_dir / LOCK_NAME).write_text(json.dumps({"packages": entries}, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description="Fetch and verify the vendored browser libraries.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="only compare the committed files with the lock")
    mode.add_argument("--relock", action="store_true", help="accept the packages as they are and write a new lock")
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            fetch_all(relock=options.relock)
        found = problems()
    except VendoringError as error:
        found = [str(error)]
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
