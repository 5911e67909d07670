"""A copy that lies in a repository of this node is used from there: no peer, no daemon."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import trio
from copy_world import PASSWORD, contents, local_repository

from transporter.errors import NoKey, RefusedByPeer, UsageError
from transporter.events import FileContent, JobStarted, Listing
from transporter.jobs.cat_file import CatOrder, cat
from transporter.jobs.list_point import ListOrder, list_entries
from transporter.jobs.point_order import PointOrder


async def listed(node, order):
    await list_entries(node.context, ListOrder(order, b"", True))
    files = [file for event in node.seen(Listing) for file in event.files]
    return {file.path.rpartition(b"/")[2] for file in files if file.kind == "f"}


async def content(node, order, path):
    await cat(node.context, CatOrder(order, path))
    return b"".join(event.data for event in node.seen(FileContent))


async def away(world):
    """The peers are gone."""
    for name in ("offsite", "second"):
        if world.source.catalog.peer(name):
            world.source.catalog.remove_peer(name)


@pytest.mark.parametrize("zone", ["source", "none"])
async def test_a_copy_here_is_restored_verified_and_looked_into(world, zone):
    job = {"source": "docs", "none": "none"}[zone]
    await world.source.backup(job)
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here")
        await away(world)
        place = await world.source.restore(job, source="here", output="back")
        assert contents(place) == contents(world.source.tree)
        done = await world.source.verify(job, source="here")
        assert done.zone == zone and done.chunks
        assert [event.repository for event in world.source.seen(JobStarted)][-2:] == ["here", "here"]
        assert await listed(world.source, PointOrder(job, source="here")) >= {b"large", b"file-0"}
        assert (
            await content(world.source, PointOrder(job, source="here"), b"sub/file-1")
            == (world.source.tree / "sub" / "file-1").read_bytes()
        )


async def test_a_stream_comes_from_here_as_well(world, tmp_path):
    await world.source.backup()
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here")
        await away(world)
        with (tmp_path / "out").open("wb") as out:
            await world.source.restore("docs", source="here", output="", include=["**/large"], to_fd=out.fileno())
        assert (tmp_path / "out").read_bytes() == (world.source.tree / "large").read_bytes()


async def test_what_was_sealed_anew_on_its_way_is_used_here(world):
    await world.source.backup()
    world.source.keys.add_password("later", b"another one")
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here", seal="all", password="later")
        await away(world)
        place = await world.source.restore("docs", source="here", output="back")
        assert contents(place) == contents(world.source.tree)


async def test_a_provider_restores_from_its_own_repository_what_it_can_open(world):
    await world.source.backup("target")
    await world.source.backup("docs")
    place = await world.target.restore("target", source="main", output="back")
    assert contents(place) == contents(world.source.tree)
    await world.target.verify("target", source="main")
    with pytest.raises(NoKey):
        await world.target.restore("docs", source="main", output="not")
    place = await world.target.restore("docs", source="main", output="typed", password=PASSWORD)
    assert contents(place) == contents(world.source.tree)


async def test_a_providers_copies_of_its_tenants_are_used_under_their_names(world):
    await world.source.backup("target")
    await world.one.neighbour.backup("docs")
    with local_repository(world.target):
        await world.copy(world.target, "main", "here")
        job = f"{world.tenant(world.source)}/target"
        place = await world.target.restore(job, source="here", output="back", zone="target")
        assert contents(place) == contents(world.source.tree)
        job = f"{world.tenant(world.one.neighbour)}/docs"
        place = await world.target.restore(job, source="here", output="theirs", password=PASSWORD)
        assert contents(place) == contents(world.one.neighbour.tree)


async def test_a_copy_that_is_not_sealed_is_not_taken_for_one_that_was(world):
    """Whoever gave the copy could have made up a plain point of a job that this node seals."""
    await world.source.backup("none")
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here")
        jobs = world.source.config.jobs
        jobs["none"], plain = jobs["docs"], jobs["none"]
        try:
            for use in (world.source.restore("none", source="here"), world.source.verify("none", source="here")):
                with pytest.raises(RefusedByPeer, match="trust zone 'none'"):
                    await use
            await world.source.verify("none", source="here", zone="none")
        finally:
            jobs["none"] = plain


async def test_jobs_of_one_name_are_told_apart_by_their_tenants(world):
    await world.source.backup("target")
    await world.one.neighbour.backup("target")
    with pytest.raises(UsageError, match="--tenant"):
        await world.target.restore("target", source="main")
    tenant = world.tenant(world.one.neighbour)
    place = await world.target.restore("target", source="main", output="theirs", tenant=tenant)
    assert contents(place) == contents(world.one.neighbour.tree)
    await world.target.verify("target", source="main", tenant=tenant)


async def test_the_commands_work_with_nothing_but_this_machine(world, tmp_path):
    for number in range(2):
        (world.source.tree / "new").write_text(str(number))
        await world.source.backup()
    home = world.source.home
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here")
        await away(world)
    with home.config_path.open("a") as config:
        config.write("[repositories.here]\n")

    async def run(*words):
        command = [sys.executable, "-m", "transporter", "--home", str(home.path), "--json", *words]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        assert isinstance(done, subprocess.CompletedProcess)
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    status, rows, err = await run("points", "--from", "here")
    assert (status, len(rows)) == (0, 2), err
    assert all(row["copied"] and row["repository"] == "here" and row["job"] == "docs" for row in rows)
    assert [row["tenant"] for row in rows] == [world.tenant(world.source)] * 2
    output = tmp_path / "back"
    status, _, err = await run("restore", "docs", rows[0]["point"][:8], "--from", "here", "--output", str(output))
    assert status == 0, err
    (new,) = output.rglob("new")
    assert new.read_text() == "0"
    status, events, err = await run("verify", "docs", "all", "--from", "here")
    assert status == 0, err
    assert len({event["point"] for event in events if event.get("event") == "job_finished"}) == 2
    status, _, err = await run("points", "--from", "here", "--accept")
    assert status == 2, err
    for words in (("restore", "docs", "--output", str(tmp_path / "no")), ("verify", "docs"), ("points",)):
        status, _, err = await run(*words, "--from", "nowhere")
        assert status == 2, err
