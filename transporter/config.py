"""The configuration of a home: ``config.toml``, read strictly.

    [node]               name, listen, address
    [repositories.NAME]  path, quota, encrypt_at_rest, keep_replaced_slots, immutable, recycle, keep_at_least, keep,
                         clock_jump, scrub, scrub_sample, scrub_limit, prune, prune_grace
    [jobs.NAME]          to, encrypt, password, paths, as, exclude, stdin_name, compression, network_acceleration, keep,
                         retention, transform, transform_keep, transform_before
    [copies.NAME]        from, to, jobs, continuous, schedule, through, seal, password
    [limits]             redial_for, connect_timeout, max_streams
    [link]               outbound_proxy, outbound_proxy_password_file, data
    [proxy]              streams_per_node
    [keys]               master
    [kms.NAME]           kind, key, region, account, endpoint, mount, token_file, ca_file
    [throttle.daemon]    "WINDOW" = "RATE", any number; also [throttle.peers.NAME] and [throttle.jobs.NAME]

Unknown keys are refused, and every error names file, line, column and what to do. ``docs/handbook.md`` explains them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from transporter.errors import ConfigError
from transporter.kms_config import MAX_KMS, KeysConfig, KmsConfig, kms_problem, master_problem
from transporter.link_config import LinkConfig, link_problem
from transporter.quantities import Duration, Size, parse_duration, parse_rate, parse_size
from transporter.retention import NO_POLICY, KeepPolicy, Minimum
from transporter.task_config import RATE_REMEDY, copy_tasks_problem, job_tasks_problem, repository_tasks_problem
from transporter.throttle.windows import REMEDY as WINDOW_REMEDY
from transporter.throttle.windows import Rule, Schedule, parse_window
from transporter.toml_position import find_key

Zone = Literal["source", "target", "none"]
Workload = Literal["tree", "image", "stream"]
Compression = Literal["adaptive", "lz4", "zstd"]

NAME = re.compile(r"[^\W_][\w.+@-]{0,63}\Z")
"""Names of nodes, repositories and jobs: letters and digits of any script, then also ``. _ + @ -``; at most 64 signs,
because they become file names and are typed by people."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class NodeConfig(_Table, frozen=True, kw_only=True):
    """This node. ``listen`` is ``host:port`` or empty; ``address`` is what invitations tell others to dial.

    ``address`` may be ``ws://`` or ``wss://`` where a front end that speaks HTTP stands before this node.
    """

    name: str
    listen: str = ""
    address: str = ""


class RepositoryConfig(_Table, frozen=True, kw_only=True):
    """A repository of this home. ``path`` empty: inside the home. ``encrypt_at_rest`` names a password of this home.

    Seconds: ``keep_replaced_slots``: how long a slot is kept after a tenant's password change has replaced it.
    ``immutable``: so long nobody removes a new point. ``recycle``: so long a removed point can be brought back.
    ``keep_at_least``: so long no tenant removes a point, nor one that ``keep`` keeps. ``clock_jump``: if the clock goes
    ahead by more, nothing is deleted until somebody confirms.
    ``scrub``: when the daemon scrubs it (schedule.py; empty: never), a share at a time (``scrub_sample``), so fast
    (``scrub_limit``, a rate; empty: as fast as it can).
    ``prune``: when the daemon prunes it, likewise; ``prune_grace``: for how long what is not needed is kept.
    """

    path: str = ""
    quota: Size | None = None
    encrypt_at_rest: str = ""
    keep_replaced_slots: Duration = Duration(7 * 86400)
    immutable: Duration = Duration(0)
    recycle: Duration = Duration(0)
    keep_at_least: Duration = Duration(0)
    keep: KeepPolicy = NO_POLICY
    clock_jump: Duration = Duration(7 * 86400)
    scrub: str = ""
    scrub_sample: str = "100%"
    scrub_limit: str = ""
    prune: str = ""
    prune_grace: Duration = Duration(86400)

    @property
    def minimum(self) -> Minimum:
        """What stays whatever a tenant asks."""
        return Minimum(float(self.keep_at_least), self.keep)


class JobConfig(_Table, frozen=True, kw_only=True):
    """What to copy, where to, and who may read it.

    ``password`` names a password: of this home for ``encrypt = "source"``, of the peer's home for ``"target"``.
    ``network_acceleration``: share chunks with the other accelerated jobs of this node in that repository.
    ``keep``: what retention keeps of its points after each run that ended well; empty: everything.
    ``retention``: when the daemon carries it out, too, ``transform``: when it folds old points (schedule.py; empty:
    never): all but the newest ``transform_keep``, or what is older than ``transform_before``.
    """

    to: str
    encrypt: Zone
    paths: list[str]
    password: str = ""
    workload: Workload = msgspec.field(default="tree", name="as")
    exclude: list[str] = []
    stdin_name: str = "stdin"
    compression: Compression = "adaptive"
    network_acceleration: bool = False
    keep: KeepPolicy = NO_POLICY
    retention: str = ""
    transform: str = ""
    transform_keep: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    transform_before: Duration = Duration(0)

    @property
    def peer(self) -> str:
        """The peer's name: the first half of ``to``."""
        return self.to.partition("/")[0]

    @property
    def repository(self) -> str:
        """The repository's name at the peer: the second half of ``to``."""
        return self.to.partition("/")[2]


class CopyConfig(_Table, frozen=True, kw_only=True):
    """A backup copy job: restore points from one repository to another.

    ``from`` and ``to``: PEER/REPOSITORY, or a repository of this home. ``jobs``: of which; none: of all.
    ``continuous``: the daemon copies as soon as a point appears; ``schedule``: or at these times (schedule.py).
    ``through``: between two peers the data passes through this node. ``seal``: what this node seals on the way, under
    ``password``, one of its own; or "target": that seals what is plain, under one of its own (none: the one of its
    repository).
    """

    source: str = msgspec.field(name="from")
    to: str
    jobs: list[str] = []
    continuous: bool = False
    schedule: str = ""
    through: bool = False
    seal: Literal["as-is", "plain", "all", "target"] = "as-is"
    password: str = ""

    @property
    def sealed_here(self) -> bool:
        """Whether ``password`` is one of this home."""
        return self.seal in ("plain", "all")


class LimitsConfig(_Table, frozen=True, kw_only=True):
    """How long to try. Durations in seconds."""

    redial_for: Duration = Duration(900)
    connect_timeout: Duration = Duration(15)
    max_streams: int = 32


class ProxyConfig(_Table, frozen=True, kw_only=True):
    """This node as a proxy host (`serve --proxy`). ``streams_per_node``: connections of one node at a time."""

    streams_per_node: int = 128


class ThrottleConfig(_Table, frozen=True, kw_only=True):
    """How fast this node may send and receive: all of it, with a peer, for a job. The strictest holds."""

    daemon: Schedule = Schedule()
    peers: dict[str, Schedule] = {}
    jobs: dict[str, Schedule] = {}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole ``config.toml``."""

    node: NodeConfig
    repositories: dict[str, RepositoryConfig] = {}
    jobs: dict[str, JobConfig] = {}
    copies: dict[str, CopyConfig] = {}
    limits: LimitsConfig = LimitsConfig()
    link: LinkConfig = LinkConfig()
    proxy: ProxyConfig = ProxyConfig()
    throttle: ThrottleConfig = ThrottleConfig()
    keys: KeysConfig = KeysConfig()
    kms: dict[str, KmsConfig] = {}

    def job(self, name: str) -> JobConfig:
        """Return a job; raise ``ConfigError`` that names the nearest one."""
        if name in self.jobs:
            return self.jobs[name]
        raise ConfigError(
            f"there is no job {name!r} in the configuration",
            _nearest(name, self.jobs) or "`transporter job list` shows the jobs; `transporter backup` defines new ones",
        )

    def copy(self, name: str) -> CopyConfig:
        """Return a backup copy job; raise ``ConfigError`` that names the nearest one."""
        if name in self.copies:
            return self.copies[name]
        raise ConfigError(
            f"there is no copy {name!r} in the configuration",
            _nearest(name, self.copies) or f"add [copies.{name}] with from = … and to = …",
        )

    def repository(self, name: str) -> RepositoryConfig:
        """Return a repository; raise ``ConfigError`` that names the nearest one."""
        if name in self.repositories:
            return self.repositories[name]
        raise ConfigError(
            f"there is no repository {name!r} in the configuration",
            _nearest(name, self.repositories) or "make it with `transporter repository add`",
        )


def load_config(path: Path) -> Config:
    """Read and check a configuration file. Raises ``ConfigError``."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "check the file and its permissions") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start})", "save the file as UTF-8") from None
    return parse_config(text, path)


def parse_config(text: str, path: Path) -> Config:
    """Check a configuration text; ``path`` is for the messages only. Raises ``ConfigError``."""
    return _Reader(text, path).config()


_TableT = TypeVar("_TableT", bound=msgspec.Struct)


class _Reader:
    def __init__(self, text: str, path: Path) -> None:
        self.text = text
        self.path = path
        try:
            self.data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            message = str(error)
            place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
            last = (str(text.count("\n") + 1), "1")
            line, column = (place.groups() if place and place[1] else last) if place else last
            reason = message[: place.start()] if place else message
            raise ConfigError(f"{path}:{line}:{column}: not valid TOML: {reason}", "correct this line") from None

    def config(self) -> Config:
        known = ("node", "repositories", "jobs", "copies", "limits", "link", "proxy", "throttle", "keys", "kms")
        for key in self.data:
            if key not in known:
                raise self.error((key,), f"unknown section [{key}]", _nearest(key, known) or _list("sections", known))
        if "node" not in self.data:
            raise self.error((), "the section [node] is missing", 'add [node] with name = "…"')
        config = Config(
            node=self.table(("node",), NodeConfig),
            repositories=self.tables("repositories", RepositoryConfig),
            jobs=self.tables("jobs", JobConfig),
            copies=self.tables("copies", CopyConfig),
            limits=self.table(("limits",), LimitsConfig) if "limits" in self.data else LimitsConfig(),
            link=self.table(("link",), LinkConfig) if "link" in self.data else LinkConfig(),
            proxy=self.table(("proxy",), ProxyConfig) if "proxy" in self.data else ProxyConfig(),
            throttle=self.throttle(),
            keys=self.table(("keys",), KeysConfig) if "keys" in self.data else KeysConfig(),
            kms=self.tables("kms", KmsConfig),
        )
        self.check(config)
        return config

    def error(self, key: tuple[str, ...], what: str, remedy: str) -> ConfigError:
        line, column = find_key(self.text, key)
        return ConfigError(f"{self.path}:{line}:{column}: {what}", remedy)

    def tables(self, section: str, kind: type[_TableT]) -> dict[str, _TableT]:
        named = self.data.get(section, {})
        if not isinstance(named, dict):
            raise self.error((section,), f"{section} is not a section", f"write [{section}.NAME]")
        for name in named:
            self.name((section, name), name)
        return {name: self.table((section, name), kind) for name in named}

    def table(self, key: tuple[str, ...], kind: type[_TableT]) -> _TableT:
        values: Any = self.data
        for part in key:
            values = values[part]
        shown = f"[{'.'.join(key)}]"
        if not isinstance(values, dict):
            raise self.error(key, f"{shown} is not a section", f"write {shown} on a line of its own, its keys below")
        fields = kind.__struct_encode_fields__
        for field in values:
            if field not in fields:
                raise self.error(
                    (*key, field), f"unknown key {field!r} in {shown}", _nearest(field, fields) or _list("keys", fields)
                )
        try:
            return msgspec.convert(values, kind, dec_hook=_quantity)
        except msgspec.ValidationError as error:
            what, _, place = str(error).partition(" - at `$")
            field = re.match(r"\.([A-Za-z_]+)", place)
            missing = re.match(r"Object missing required field `(\w+)`", what)
            if missing:
                raise self.error(key, f"{shown} lacks {missing[1]!r}", f"add {missing[1]} = …") from None
            where = (*key, field[1]) if field else key
            label = f"{field[1]} in {shown}" if field else shown
            raise self.error(where, f"{label}: {_plain(what)}", _choices(kind, field and field[1])) from None

    def throttle(self) -> ThrottleConfig:
        sections = self.section(("throttle",), self.data.get("throttle", {}))
        known = ("daemon", "peers", "jobs")
        for key in sections:
            if key not in known:
                what = f"unknown section [throttle.{key}]"
                raise self.error(("throttle", key), what, _nearest(key, known) or _list("sections", known))
        return ThrottleConfig(
            daemon=self.schedule(("throttle", "daemon"), sections.get("daemon", {})),
            peers=self.schedules(("throttle", "peers"), sections.get("peers", {})),
            jobs=self.schedules(("throttle", "jobs"), sections.get("jobs", {})),
        )

    def schedules(self, key: tuple[str, ...], value: object) -> dict[str, Schedule]:
        named = self.section(key, value)
        for name, windows in named.items():
            self.section((*key, name), windows)
            self.name((*key, name), name)
        return {name: self.schedule((*key, name), windows) for name, windows in named.items()}

    def schedule(self, key: tuple[str, ...], value: object) -> Schedule:
        rules = []
        for window, rate in self.section(key, value).items():
            where = (*key, window)
            try:
                when = parse_window(window)
            except ValueError as error:
                raise self.error(where, str(error), WINDOW_REMEDY) from None
            if not isinstance(rate, str):
                raise self.error(where, f"{window}: expected a rate in quotes, got {rate!r}", RATE_REMEDY)
            try:
                rules.append(Rule(window, when, parse_rate(rate)))
            except ValueError as error:
                raise self.error(where, f"{window}: {error}", RATE_REMEDY) from None
        return Schedule(tuple(rules))

    def section(self, key: tuple[str, ...], value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            shown = f"[{'.'.join(key)}]"
            raise self.error(key, f"{shown} is not a section", f"write {shown} on a line of its own, its keys below")
        return value

    def name(self, key: tuple[str, ...], name: str) -> None:
        if not NAME.match(name):
            raise self.error(key, f"{name!r} is not a usable name", NAME_REMEDY)

    def check(self, config: Config) -> None:
        self.name(("node", "name"), config.node.name)
        for field in ("listen", "address"):
            value = getattr(config.node, field)
            if value and not is_address(value, url=field == "address"):
                raise self.error(("node", field), f"{field}: {value!r} is not an address", "write host:port")
        if not 1 <= config.limits.max_streams <= 32:
            raise self.error(("limits", "max_streams"), "max_streams is outside 1…32", "leave it out: 32")
        problem = link_problem(config.link)
        if problem:
            raise self.error(("link", problem[0]), *problem[1:])
        if not 1 <= config.proxy.streams_per_node <= 100_000:
            raise self.error(("proxy", "streams_per_node"), "streams_per_node is outside 1…100000", "leave it out: 128")
        for name, repository in config.repositories.items():
            if repository.path and not repository.path.startswith("/"):
                raise self.error(("repositories", name, "path"), "path is not absolute", "start it with /")
            if not 3600 <= float(repository.clock_jump) <= 366 * 86400:
                where = ("repositories", name, "clock_jump")
                raise self.error(where, "clock_jump is outside 1h…366d", "leave it out: 7d")
            wrong = repository_tasks_problem(repository)
            if wrong:
                raise self.error(("repositories", name, wrong[0]), *wrong[1:])
        for name in config.throttle.jobs:
            if name not in config.jobs and name not in config.copies:
                remedy = _nearest(name, config.jobs) or "`transporter job list` shows the jobs"
                raise self.error(("throttle", "jobs", name), f"there is no job {name!r} to limit", remedy)
        for name, copy in config.copies.items():
            wrong = copy_problem(config, copy)
            if wrong:
                raise self.error(("copies", name, wrong[0]), f"copy {name!r}: {wrong[1]}", wrong[2])
        self.check_keys(config)
        for name, job in config.jobs.items():
            problem = job_problem(job)
            if problem:
                field, what, remedy = problem
                raise self.error(("jobs", name, field), f"job {name!r}: {what}", remedy)

    def check_keys(self, config: Config) -> None:
        if len(config.kms) > MAX_KMS:
            raise self.error(("kms",), f"there are more than {MAX_KMS} services", "take away those that no key needs")
        for name, service in config.kms.items():
            problem = kms_problem(service)
            if problem:
                raise self.error(("kms", name, problem[0]), f"[kms.{name}]: {problem[1]}", problem[2])
        wrong = master_problem(config.keys.master, config.kms)
        if wrong:
            raise self.error(("keys", "master"), f"master: {wrong[0]}", wrong[1])


NAME_REMEDY = "use 1 to 64 letters, digits and . _ + @ - , starting with a letter or digit"


def job_problem(job: JobConfig) -> tuple[str, str, str] | None:
    """Return (key, what is wrong, what to do) of the first thing in a job that cannot work, or ``None``."""
    peer, slash, repository = job.to.partition("/")
    if not slash or not NAME.match(peer) or not NAME.match(repository):
        return "to", f"{job.to!r} does not name a repository at a peer", 'write to = "PEER/REPOSITORY"'
    if job.encrypt == "none" and job.password:
        return "password", "a password is named, but nothing is encrypted", 'choose encrypt = "source" or "target"'
    if job.encrypt != "none" and not job.password:
        owner = "this home" if job.encrypt == "source" else "the peer's home"
        return "encrypt", f"encrypt = {job.encrypt!r} needs a password", f"name a password of {owner} (--password NAME)"
    if job.network_acceleration and job.encrypt != "none":
        return (
            "network_acceleration",
            f"network acceleration does not go together with encrypt = {job.encrypt!r}: jobs would have to share the "
            "key that names their chunks, and whoever sees the names would see which contents they have in common",
            'leave network_acceleration out, or choose encrypt = "none"',
        )
    if not job.paths:
        return "paths", "there is nothing to copy", "name at least one path"
    if job.workload == "stream":
        if job.paths != ["-"]:
            return "paths", 'a stream is read from "-" alone', 'write paths = ["-"]'
    elif any(not path.startswith("/") for path in job.paths):
        return "paths", "a path is not absolute", "start every path with /"
    elif job.workload == "image" and len(job.paths) != 1:
        return "paths", "an image job copies exactly one image", "make one job for each image"
    if not job.stdin_name or "/" in job.stdin_name or job.stdin_name in {".", ".."}:
        return "stdin_name", f"{job.stdin_name!r} is not a file name", "write a name without /"
    return job_tasks_problem(job)


def copy_problem(config: Config, copy: CopyConfig) -> tuple[str, str, str] | None:
    """Return (key, what is wrong, what to do) of the first thing in a backup copy job that cannot work, or ``None``."""
    for key, place in (("from", copy.source), ("to", copy.to)):
        peer, slash, repository = place.rpartition("/")
        if not NAME.match(repository) or (slash and not NAME.match(peer)):
            return key, f"{place!r} names no repository", "write PEER/REPOSITORY, or a repository of this home"
        if not slash and repository not in config.repositories:
            return key, f"there is no repository {repository!r} in this home", "write PEER/REPOSITORY for one of a peer"
    if copy.seal == "target":
        if "/" not in copy.to:
            return "seal", "the target is this home: it seals on the way", 'seal = "plain", and a password'
    elif (copy.seal == "as-is") != (copy.password == ""):
        return "seal", "seal and password go together", 'name both, or leave both out: seal = "plain" or "all"'
    if copy.source == copy.to:
        return "to", "a repository is to be copied to itself", "name another one"
    return copy_tasks_problem(copy)


_PLAIN_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[^\s\[\]]+)?\]|[^\s:/\[\]]+):(\d{1,5})")
_URL_ADDRESS = re.compile(r"wss?://(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+)(?::(\d{1,5}))?(?:/[!-~]*)?")


def is_address(text: str, *, url: bool = False) -> bool:
    """Tell whether a text is ``host:port`` (IPv6 hosts in brackets); ``url``: ``ws://`` or ``wss://`` will do, too."""
    match = _PLAIN_ADDRESS.fullmatch(text) or (_URL_ADDRESS.fullmatch(text) if url else None)
    return match is not None and int(match[2] or 0) <= 65535


def _quantity(kind: type[object], value: object) -> Size | Duration:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"Expected a size or a duration in quotes, got {value!r}")
    return parse_size(str(value)) if kind is Size else parse_duration(str(value))


_JSON_TYPES = {"str": "a text", "int": "a number", "array": "a list", "object": "a section", "bool": "true or false"}


def _plain(what: str) -> str:
    """Turn the validator's words into those of a person who edits a file."""
    return re.sub(r"`(\w+)`", lambda m: _JSON_TYPES.get(m[1], f"`{m[1]}`"), what).replace("Expected", "expected", 1)


def _choices(kind: type[msgspec.Struct], field: str | None) -> str:
    choices = {
        "encrypt": '"source", "target" or "none"',
        "as": '"tree", "image" or "stream"',
        "compression": '"adaptive", "lz4" or "zstd"',
        "kind": '"aws" or "transit"',
        "keep": '{ last = 7, daily = 30, within = "14d" }, of last, hourly, daily, weekly, monthly, yearly and within',
        "seal": '"as-is", "plain", "all" or "target"',
    }
    if kind is LinkConfig:
        choices = {"data": '"auto", "direct" or "websocket"', "congestion": '"bbr" or "system"'}
    return f"write {choices[field]}" if field in choices else "correct this value"


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def _list(noun: str, known: Iterable[str]) -> str:
    return f"{noun} are: {', '.join(known)}"
