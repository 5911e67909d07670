"""The key management services of a home, as everything else uses them: cached, counted, recorded.

A job asks for all it needs before it seals its first chunk; what it holds it holds to its end, so that an outage
stops no job that has begun. No call is made inside a transaction of the key database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

import msgspec

from transporter.clock import Clock
from transporter.errors import KMS_ERRORS, ConfigError, KmsBadAnswer, KmsUnreachable, KmsWrongKey, TransporterError
from transporter.keys.derive import same
from transporter.keys.key_cache import STALE_SECONDS, KeyCache, cache_place
from transporter.keys.kms import Context, Kms, KmsKey, open_kms
from transporter.kms_config import KmsConfig

_Result = TypeVar("_Result")

CACHE: Final = KeyCache()
"""Of this process."""


class Record(Protocol):
    """How an entry is added to the audit trail."""

    def __call__(self, event: str, **facts: str | int) -> None:
        """Add ``event``."""


class KmsAccess:
    """``services``: what ``[kms.NAME]`` says, read when it is needed first."""

    def __init__(
        self,
        services: Callable[[], Mapping[str, KmsConfig]],
        clock: Clock,
        record: Record,
        cache: KeyCache = CACHE,
    ) -> None:
        self._services = services
        self._clock = clock
        self._record = record
        self._cache = cache
        self._open: dict[str, tuple[KmsConfig, Kms]] = {}
        self._keys: dict[str, KmsKey] = {}
        self._counted: Counter[str] | None = None
        self._given_up: dict[str, TransporterError] = {}

    def names(self) -> list[str]:
        """Return the services of this home."""
        return sorted(self._services())

    def service(self, name: str) -> Kms:
        """Return a service. Raises ConfigError where none is called so, or what it needs is not installed."""
        config = self._services().get(name)
        if config is None:
            raise ConfigError(
                f"there is no key management service [kms.{name}] in config.toml", "add it there; see the handbook"
            )
        known = self._open.get(name)
        if known is None or known[0] != config:
            known = self._open[name] = config, open_kms(name, config)
            self._keys.pop(name, None)
        return known[1]

    def key(self, name: str) -> KmsKey:
        """Return the key behind a service, proved once to be there, enabled, and of the right account."""
        self.service(name)
        if name not in self._keys:
            self._keys[name] = self._asked(name, lambda service: service.key())
        return self._keys[name]

    def wrap(self, name: str, key: bytes, context: Context, *, prove: bool) -> bytes:
        """Return ``key`` wrapped by a service; it can be unwrapped from the cache from now on.

        ``prove``: have it unwrapped at once, where nothing else would open what is put under ``key``: a service that
        wraps and does not unwrap (its policy, its fault) must be found out before it is relied upon.
        """
        wrapped = self._asked(name, lambda service: service.wrap(key, context))
        if prove and not same(self._asked(name, lambda service: service.unwrap(wrapped, context)), key):
            raise KmsWrongKey(
                f"[kms.{name}] gives back another key than it was given", "nothing was changed; look at the service"
            )
        self._note("kms.wrap", name, context)
        self._cache.put(self._place(name, wrapped, context), key, self._clock.monotonic())
        return wrapped

    def unwrap(self, name: str, wrapped: bytes, context: Context) -> bytes:
        """Return a key that `wrap` was given, from the cache or by asking. Raises as `Kms`, and ConfigError."""
        place = self._place(name, wrapped, context)
        kept = self._cache.get(place, self._clock.monotonic())
        if kept is not None:
            return kept
        try:
            key = self._asked(name, lambda service: service.unwrap(wrapped, context))
        except (KmsUnreachable, KmsBadAnswer):
            stale = self._cache.get(place, self._clock.monotonic(), STALE_SECONDS)
            if stale is None:
                raise
            return stale
        except KMS_ERRORS:
            self._cache.drop(place)
            raise
        self._note("kms.unwrap", name, context)
        self._cache.put(place, key, self._clock.monotonic())
        return key

    def forget(self, name: str, wrapped: bytes, context: Context) -> None:
        """Let go of a key that turned out to open nothing: the service answered with another one."""
        self._cache.drop(self._place(name, wrapped, context))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Record what is done inside as one entry for each service and purpose: a drill has thousands.

        A service that fails inside is not asked again before the end: thousands of points would wait for it.
        """
        outer, self._counted = self._counted, Counter()
        self._given_up.clear()
        try:
            yield
        finally:
            counts, self._counted = self._counted, outer
            self._given_up.clear()
            for what, count in sorted((counts or {}).items()):
                event, name, purpose = what.split("\0")
                self._record(event, kms=name, purpose=purpose, keys=count)

    def _asked(self, name: str, ask: Callable[[Kms], _Result]) -> _Result:
        service = self.service(name)
        failure = self._given_up.get(name) or self._cache.failure(self._service_id(name), self._clock.monotonic())
        if failure is not None:
            raise type(failure)(failure.what, failure.remedy)
        try:
            result = ask(service)
        except KMS_ERRORS as error:
            self._failed(name, error)
            raise
        self._cache.works(self._service_id(name))
        return result

    def _failed(self, name: str, error: TransporterError) -> None:
        # A key that does not open one thing may open the next.
        if not isinstance(error, KmsWrongKey):
            if self._counted is not None:
                self._given_up[name] = error
            self._cache.failed(self._service_id(name), error, self._clock.monotonic())

    def _note(self, event: str, name: str, context: Context) -> None:
        purpose = context.get("transporter-purpose", "")
        if self._counted is not None:
            self._counted[f"{event}\0{name}\0{purpose}"] += 1
        else:
            self._record(event, kms=name, **{key.removeprefix("transporter-"): value for key, value in context.items()})

    def _service_id(self, name: str) -> str:
        return msgspec.json.encode([name, self._services().get(name)]).decode()

    def _place(self, name: str, wrapped: bytes, context: Context) -> bytes:
        return cache_place(self._service_id(name).encode(), wrapped, context)
