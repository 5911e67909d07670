from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from transporter.clock import ManualClock
from transporter.keys.database import KeyDatabase
from transporter.keys.password import KdfParameters, PasswordHash, UserKey, hash_password

VECTORS = Path(__file__).parents[1] / "vectors"
FOLDERS = [VECTORS / "keys", VECTORS / "slots"]
CHEAP = KdfParameters(8, 1, 1)
SALT = bytes(range(16))


def pytest_generate_tests(metafunc):
    """Give each test that has a ``<file>_case`` argument every case of <file>.json in tests/vectors/keys or slots."""
    for name in metafunc.fixturenames:
        if name.endswith("_case"):
            (file,) = [path for folder in FOLDERS for path in folder.glob(f"{name.removesuffix('_case')}.json")]
            cases = json.loads(file.read_text())
            metafunc.parametrize(name, cases, ids=[case["name"] for case in cases])


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def vector_folder(request):
    return request.param


@pytest.fixture
def vector_maker(vector_folder):
    spec = importlib.util.spec_from_file_location(f"make_{vector_folder.name}_vectors", vector_folder / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cheap() -> KdfParameters:
    return CHEAP


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def password_hash() -> PasswordHash:
    return hash_password(b"hunter2-the-password", SALT, CHEAP)


@pytest.fixture(scope="session")
def user_key(password_hash) -> UserKey:
    return UserKey("office", password_hash)


@pytest.fixture
def database(tmp_path):
    with KeyDatabase(tmp_path / "keys.db", parameters=CHEAP) as opened:
        yield opened
