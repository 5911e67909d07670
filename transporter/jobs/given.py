"""Whether the provider gave what was asked for."""

from __future__ import annotations

from protocol.messages import Started
from transporter.errors import RefusedByPeer
from transporter.points.domain import domain_of, shared_domain_of


def check_domain(started: Started, job: str, *, acceleration: bool) -> None:
    """Refuse a session whose chunks would not lie in the domain that the job's configuration says.

    An older provider does not know the question, and would send everything once more without a word; a false one could
    lay together what belongs apart. Raises RefusedByPeer.
    """
    if acceleration and started.domain != shared_domain_of(started.tenant):
        raise RefusedByPeer(
            "the peer does not share chunks between jobs, which network acceleration needs",
            "update the transporter there, or switch network_acceleration off for this job",
        )
    if not acceleration and started.domain != domain_of(started.tenant, job):
        raise RefusedByPeer(
            "the peer would put the chunks of this job into a domain that is not the job's own",
            "find out what happened to the target before you go on",
        )
