from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The helpers beside this file, and the whole pair in one process from beside the tests of the service.
sys.path.insert(0, str(Path(__file__).parents[1] / "service"))
sys.path.insert(0, str(Path(__file__).parent))

from kms_servers import Moto, OpenBao, moto_server, openbao_server
from misbehaving import Misbehaving
from world import open_world

from transporter.keys import kms_access


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def openbao(tmp_path_factory):
    with openbao_server(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture(autouse=True)
def aws(monkeypatch, tmp_path):
    """Credentials of nobody; and none of whoever runs the tests."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no-such-file"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "no secret")


@pytest.fixture(autouse=True, scope="session")
def one_loader():
    """Each client would read the same models of AWS's services from disk again: a third of a second each."""
    import botocore.loaders
    import botocore.session

    loader = botocore.loaders.create_loader()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(botocore.session, "create_loader", lambda _paths=None: loader)
        yield


@pytest.fixture(autouse=True)
def nothing_cached():
    kms_access.CACHE.clear()
    yield
    kms_access.CACHE.clear()


@pytest.fixture
def misbehaving():
    with Misbehaving() as server:
        yield server


@pytest.fixture
async def world():
    async with open_world() as made:
        yield made


__all__ = ["Moto", "OpenBao"]
