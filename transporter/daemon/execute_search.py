"""Carry out a search: in a daemon, or in a process of its own that imports what a search needs and no more."""

from __future__ import annotations

from transporter.catalog import Catalog
from transporter.clock import SystemClock
from transporter.config import load_config
from transporter.daemon.requests import JobOutcome, SearchRequest
from transporter.events import EventBus
from transporter.home import Home
from transporter.jobs.context import JobContext
from transporter.jobs.search import SearchOrder, search
from transporter.keys.database import KeyDatabase
from transporter.link.identity import load_identity
from transporter.throttle.limits import Throttle
from transporter.workloads.fsi_query import Query


def search_order(request: SearchRequest) -> SearchOrder:
    """Return what is asked for."""
    query = Query(
        request.glob.decode("utf-8", "surrogateescape"),
        request.size_at_least,
        request.size_at_most,
        request.after_ns,
        request.before_ns,
        request.kinds,
    )
    return SearchOrder(
        query,
        request.job,
        request.at,
        request.point,
        request.from_ns,
        request.to_ns,
        request.each,
        request.latest,
        request.limit,
        request.zone,
    )


async def execute_search(context: JobContext, request: SearchRequest) -> JobOutcome:
    """Search. Raises UsageError for what is no question."""
    return JobOutcome(exit_status=0, result=(await search(context, search_order(request))).public())


async def execute_search_here(home: Home, request: SearchRequest, bus: EventBus) -> JobOutcome:
    """Search in a process of its own, which somebody waits for who wants the first line. Raises what goes wrong."""
    clock = SystemClock()
    config = load_config(home.config_path)
    throttle = Throttle()
    throttle.apply(config.throttle, clock.local_time())
    with Catalog(home.catalog_db) as catalog, KeyDatabase(home.keys_db, clock=clock) as keys:
        identity = load_identity(home.path, config.node.name, clock)
        context = JobContext(home, config, identity, catalog, keys, clock, bus, throttle=throttle)
        return await execute_search(context, request)
