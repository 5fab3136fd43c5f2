"""The browser libraries in the repository are exactly the ones that the lock names, with their licences."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from portal import vendoring
from portal.vendoring import PACKAGES, VENDOR_DIR, Package, VendoringError


@pytest.fixture
def vendored(tmp_path: Path) -> Path:
    """A copy of the committed files, to break."""
    return Path(shutil.copytree(VENDOR_DIR, tmp_path / "vendor"))


def tarball(**files: str) -> bytes:
    """Return an npm tarball; keyword names are paths with __ for / and _dot_ for a dot."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo("package/" + name.replace("__", "/").replace("_dot_", "."))
            member.size = len(content.encode())
            tar.addfile(member, io.BytesIO(content.encode()))
    return buffer.getvalue()


def test_committed_files_are_those_of_the_lock() -> None:
    assert vendoring.problems() == []
    assert vendoring.main(["--check"]) == 0


def test_lock_names_every_package_with_version_integrity_and_licence() -> None:
    locked = vendoring.read_lock()
    assert locked.keys() == {package.name for package in PACKAGES}
    for package in PACKAGES:
        entry = locked[package.name]
        assert entry["version"] == package.version
        assert entry["integrity"].startswith("sha512-")
        assert entry["files"].keys() == package.outputs.keys()
        licence = next(path for path in entry["files"] if path.endswith("LICENSE.txt"))
        assert "ermission" in (VENDOR_DIR / licence).read_text()


def test_tabler_licence_names_its_holder() -> None:
    text = (VENDOR_DIR / "tabler" / "LICENSE.txt").read_text()
    assert text.startswith("MIT License")
    assert "Paweł Kuna" in text


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda folder: (folder / "htmx/htmx.min.js").write_text("alert(1)"), "htmx/htmx.min.js differs from the lock"),
        (lambda folder: (folder / "uplot/uPlot.min.js").unlink(), "uplot/uPlot.min.js is missing"),
        (lambda folder: (folder / "extra.js").write_text(""), "extra.js is not in the lock"),
    ],
)
def test_a_changed_missing_or_added_file_is_named(vendored: Path, break_it, sentence: str) -> None:
    break_it(vendored)
    assert vendoring.problems(vendored) == [sentence]


def test_a_tarball_other_than_the_locked_one_is_refused(vendored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (vendored / "tabler/tabler.min.css").read_bytes()
    monkeypatch.setattr(vendoring, "download", lambda package, folder: tarball(LICENSE="forged"))
    with pytest.raises(VendoringError, match="not the locked package"):
        vendoring.fetch_all(vendored)
    assert (vendored / "tabler/tabler.min.css").read_bytes() == before


def test_an_unreadable_lock_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "vendor.lock").write_text("{")
    with pytest.raises(VendoringError, match="cannot read"):
        vendoring.problems(tmp_path)


def test_scripts_lose_their_map_and_gain_an_export(tmp_path: Path) -> None:
    package = Package(
        name="sample",
        version="1.0.0",
        licence="MIT",
        outputs={"sample/sample.js": vendoring.as_module("dist/sample.js", "Sample")},
    )
    script = "var Sample=1;\n//# sourceMappingURL=sample.js.map\n"
    entry = vendoring.vendor(package, tarball(dist__sample_dot_js=script), tmp_path)
    written = (tmp_path / "sample/sample.js").read_bytes()
    assert written == b"var Sample=1;\nexport default Sample;\n"
    assert entry["files"] == {"sample/sample.js": vendoring.integrity(written)}


def test_integrity_is_written_as_npm_writes_it() -> None:
    nothing = "z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
    assert vendoring.integrity(b"") == f"sha512-{nothing}"
