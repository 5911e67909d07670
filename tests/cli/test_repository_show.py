"""What is told of repositories."""

from __future__ import annotations

from transporter.clock import SystemClock
from transporter.repository import ChunkRecord, Repository


def test_show_tells_what_is_there_also_while_it_is_in_use(node):
    node("repository", "add", "main", "--quota", "1GiB")
    place = node.path / "repositories" / "main"
    with Repository.open(place, SystemClock()) as repository:
        writer = repository.writer(b"D" * 16, "office")
        writer.append(ChunkRecord(b"c" * 32, b"k" * 32, 0, 100, b"x" * 100))
        writer.close()
        (found,) = node.json("repository", "show", "main").objects()
    assert (found["packs"], found["chunks"], found["quota"]) == (1, 1, 1 << 30)
    (tenant,) = found["tenants"]
    assert tenant["tenant"] == "office" and tenant["stored"] == found["stored"] > 100
    assert (found["scrubbed_ns"], found["lost_chunks"]) == (0, 0)
    node("scrub", "main")
    (found,) = node.json("repository", "show", "main").objects()
    assert found["scrubbed_ns"] > 0
    done = node("repository", "show", "main")
    assert "office" in done.out and "last proved" in done.out
    assert node("repository", "show", "other").status == 3


def test_a_quota_of_nothing_is_shown_as_one(node):
    node("repository", "add", "main", "--quota", "0")
    assert "0 B" in node("repository", "list").out
    assert "quota 0 B a tenant" in node("repository", "show", "main").out


def test_upgrade_of_the_newest_says_so_and_one_in_use_is_left_alone(node):
    node("repository", "add", "main")
    assert node.json("repository", "upgrade", "main").objects() == [{"repository": "main", "before": 1, "version": 1}]
    with Repository.open(node.path / "repositories" / "main", SystemClock()):
        done = node("repository", "upgrade", "main")
    assert done.status == 1 and "stop the daemon first" in done.err


def test_a_schedule_that_is_none_is_named_with_its_line(node):
    node("repository", "add", "main")
    config = node.path / "config.toml"
    good = config.read_text() + 'scrub = "0 3 * * 6"\nscrub_sample = "10%"\nscrub_limit = "100MB/s"\n'
    config.write_text(good)
    assert node("check-config").status == 0
    for wrong in ('"0 3 * * 6"', '"10%"', '"100MB/s"'):
        config.write_text(good.replace(wrong, '"nonsense"'))
        done = node("check-config")
        assert done.status == 3 and "nonsense" in done.err and f"{config}:" in done.err
