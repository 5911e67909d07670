"""A home: the one folder that holds all of a node — configuration, identity, keys, catalog, cache, locks.

home/                  mode 0700
  config.toml          edited by people and by commands
  identity.key         private key of the node (PEM, mode 0600);  identity.crt  its certificate (PEM)
  keys.db              the key database (mode 0600)
  catalog.db           peers, invitations, job history, last point of each job
  cache/               manifests of the last run of each job, index blocks for searches; may be deleted at any time
  repositories/NAME/   repositories without a path of their own
  locks/               one file per running job, and of the daemon
  control.sock         where a running daemon takes jobs from the command line
  run/                 one socket for each job that runs without the daemon, to pause it or cancel it
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from transporter.errors import ConfigError

SOCKET_PATH_MAX = 100
"""Unix socket addresses hold 108 bytes on Linux (104 elsewhere) with the final zero; a longer path needs a detour."""


def default_home() -> Path:
    """Return ``$TRANSPORTER_HOME``, else the platform's data folder for this user."""
    named = os.environ.get("TRANSPORTER_HOME")
    if named:
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("transporter", appauthor=False)


def safe_name(name: str) -> str:
    """Return a name as one file name that cannot leave its folder (percent-encoded; never ``.`` or ``..``)."""
    if not name:
        raise ValueError("an empty name")
    encoded = quote(name, safe="")
    return f"%2E{encoded[1:]}" if encoded.startswith(".") else encoded


def _digest(name: str) -> str:
    """Return a short file name for any name: addresses of sockets hold hardly a hundred bytes."""
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


class Home:
    """Paths of everything in a home. Make one with ``Home.create`` (init) or ``Home.open`` (all else)."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.config_path = self.path / "config.toml"
        self.identity_key = self.path / "identity.key"
        self.identity_certificate = self.path / "identity.crt"
        self.keys_db = self.path / "keys.db"
        self.catalog_db = self.path / "catalog.db"
        self.cache = self.path / "cache"
        self.repositories = self.path / "repositories"
        self.locks = self.path / "locks"
        self.run = self.path / "run"
        self.control_socket = self.path / "control.sock"

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    @classmethod
    def create(cls, path: Path) -> Home:
        """Make the folder (mode 0700) and its sub-folders; an existing folder is used when it holds no home yet.

        Raises ``ConfigError`` when there is a home already, or the folder cannot be made.
        """
        home = cls(path)
        if home.config_path.exists() or home.identity_key.exists():
            raise ConfigError(f"{home.path} is a home already", "use it as it is, or name another folder with --home")
        try:
            home.path.mkdir(parents=True, exist_ok=True)
            if any(home.path.iterdir()):
                raise ConfigError(f"{home.path} is not empty", "name an empty or new folder with --home")
            home.path.chmod(0o700)
            home._make_folders()
        except OSError as error:
            raise ConfigError(
                f"cannot make the home {home.path}: {error.strerror or error}", "check the path and its permissions"
            ) from None
        return home

    @classmethod
    def open(cls, path: Path | None = None) -> Home:
        """Return the home at ``path`` (default: ``default_home()``).

        Raises ``ConfigError`` when there is none, or when other users of the machine could look into it.
        """
        home = cls(path if path is not None else default_home())
        if not home.config_path.is_file():
            raise ConfigError(
                f"there is no home at {home.path}", "make one with `transporter init`, or name it with --home"
            )
        mode = stat.S_IMODE(home.path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"others may look into the home {home.path} (mode {mode:04o})", f"run: chmod 700 {home.path}"
            )
        home._make_folders()
        return home

    def _make_folders(self) -> None:
        for folder in (self.cache, self.repositories, self.locks, self.run):
            folder.mkdir(mode=0o700, exist_ok=True)

    def repository_path(self, name: str, configured: str = "") -> Path:
        """Return where a repository lies; ``configured``: its ``path`` in the configuration, empty: inside the home."""
        return Path(configured) if configured else self.repositories / safe_name(name)

    def manifest_path(self, job: str) -> Path:
        """Return where the manifest of the last run of a job is cached."""
        return self.cache / f"{safe_name(job)}.manifest"

    @property
    def index_cache(self) -> Path:
        """Where blocks of file-system indexes at peers are kept, sealed."""
        return self.cache / "index.db"

    @property
    def scheduled(self) -> Path:
        """Where the daemon remembers when its scheduled tasks ran."""
        return self.cache / "scheduled.json"

    def job_lock(self, job: str) -> Path:
        """Return the file whose ``flock`` a run of the job holds."""
        return self.locks / f"job-{safe_name(job)}.lock"

    @property
    def rewrap_lock(self) -> Path:
        """The file whose ``flock`` is held by whoever replaces slots after a password's change."""
        return self.locks / "rewrap.lock"

    @property
    def daemon_lock(self) -> Path:
        """The file whose ``flock`` the daemon of this home holds."""
        return self.locks / "daemon.lock"

    def run_socket(self, job: str) -> Path:
        """Return where this process listens for what to do with its run of a job."""
        return self.run / f"{_digest(job)}-{os.getpid()}.sock"

    def run_sockets(self, job: str = "") -> list[Path]:
        """Return where runs of a job (or of any) listen, in whatever process; some may have died."""
        return sorted(self.run.glob(f"{_digest(job)}-*.sock" if job else "*.sock"))

    @contextmanager
    def socket_address(self, path: Path | None = None) -> Iterator[str]:
        """Yield an address for ``bind``/``connect`` to a socket of this home, by default the control socket.

        Valid inside the ``with``.

        It is the path itself where that is short enough, else a way round through an open descriptor of the folder.
        """
        path = path or self.control_socket
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
            yield str(path)
            return
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{folder}/{path.name}"
        finally:
            os.close(folder)
