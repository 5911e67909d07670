"""Rules of the project that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from transporter import errors

ROOT = Path(__file__).parents[2]
PACKAGES = ("protocol", "pipeline", "transporter", "loadtest")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def imports_of(path):
    """Return the top-level names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_the_list_of_packages_is_complete():
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in SOURCES if path.name == "__init__.py"
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == folders
    assert {path.parent for path in SOURCES} == {ROOT / name.replace(".", "/") for name in folders}


IO_MODULES = {"asyncio", "datetime", "multiprocessing", "os", "pathlib", "random", "select", "socket", "ssl"}
IO_MODULES |= {"selectors", "subprocess", "tempfile", "threading", "time"}


@pytest.mark.parametrize("path", sorted((ROOT / "protocol").rglob("*.py")), ids=lambda path: path.stem)
def test_the_protocol_imports_nothing_that_does_io(path):
    allowed = (sys.stdlib_module_names - IO_MODULES) | {"protocol", "cryptography"}
    if path.name == "codec.py":
        allowed |= {"msgpack"}
    assert set(imports_of(path)) <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline").rglob("*.py")), ids=lambda path: path.stem)
def test_the_pipeline_imports_stages_only(path):
    libraries = {"pipeline", "trio", "lz4", "zstandard", "blake3", "pyfastcdc", "cryptography"}
    assert set(imports_of(path)) <= sys.stdlib_module_names | libraries


WALL_CLOCK = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("os", "urandom")}

NOT_FROM_THE_CLOCK = {
    "transporter/clock.py": "it is the clock",
    "protocol/data.py": "the salt, which tests give themselves",
    "transporter/keys/private_file.py": "names of temporary files",
    "transporter/repository/session_lease.py": "names of leases",
    "transporter/jobs/kept_point.py": "jitter of redialling",
    "transporter/link/resilient.py": "likewise",
    "transporter/daemon/keeper.py": "likewise",
    "transporter/jobs/copy.py": "likewise",
    "transporter/workloads/stream.py": "a stream has no time of its own",
    "transporter/workloads/scan_clock.py": "compared with times that the file system wrote: the kernel's clock",
}


def test_time_and_randomness_come_from_the_clock():
    found = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        uses = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
        names = {(node.value.id, node.attr) for node in uses}
        if {"random", "secrets", "uuid"} & set(imports_of(path)) or WALL_CLOCK & names:
            found.add(path.relative_to(ROOT).as_posix())
    found = {name for name in found if not name.startswith("loadtest/")}
    assert found == set(NOT_FROM_THE_CLOCK)


def error_codes():
    """Yield the stable code of every error that a user can meet."""
    for path in sorted((ROOT / "transporter").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for line in node.body if isinstance(node, ast.ClassDef) else ():
                target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
                if isinstance(target, ast.Name) and target.id == "code" and isinstance(line.value, ast.Constant):
                    yield line.value.value


def test_every_error_has_a_line_in_the_docs():
    text = (ROOT / "docs" / "errors.md").read_text()
    documented = dict(re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", text, re.MULTILINE))
    assert set(error_codes()) - {""} == set(documented)
    pending = [errors.TransporterError]
    while pending:
        kind = pending.pop()
        assert documented[kind.code] == str(kind.exit_status)
        pending += kind.__subclasses__()


def test_everything_that_is_installed_has_an_exact_version():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {re.match(r"([\w.-]+)==[\w.]+$", line)[1].lower().replace("_", "-") for line in lines}
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *PYPROJECT["build-system"]["requires"]]
    wanted += [name for extra in project["optional-dependencies"].values() for name in extra]
    assert {re.match(r"[\w.-]+", name)[0].lower() for name in wanted} <= pinned


def tracked_texts():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=False).stdout
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and path != Path(__file__).resolve():
            yield name, path.read_bytes().decode("utf-8", "replace")


def test_no_file_names_a_package_registry_or_a_place_of_one_machine():
    for name, text in tracked_texts():
        assert not re.search(r"index-url|find-links|/simple\b", text), name
        assert f"{ROOT}/" not in text, name
