"""Points side by side: one finding for each version, whatever blocks it lies in."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from transporter.errors import DamagedData
from transporter.jobs.search_sweep import sweep
from transporter.workloads.entry import path_key
from transporter.workloads.fsi_query import BlockHits, Hit


class Fake:
    """Blocks, then perhaps an error."""

    def __init__(self, blocks, error=None):
        self.blocks = list(blocks)
        self.error = error
        self.taken = 0

    async def next(self):
        if self.taken < len(self.blocks):
            self.taken += 1
            return self.blocks[self.taken - 1]
        if self.error is not None:
            raise self.error
        return None


def hit(path, size):
    return Hit(path_key(path), path, size, 0, "f")


made = {}


def block(hits, last=None):
    """Equal blocks are one object, as they are in a search."""
    return made.setdefault((hits, last), BlockHits(last or hits[-1].key, hits))


def blocked(files, cuts):
    """A point: {path: size}, cut into blocks."""
    hits = tuple(hit(path, files[path]) for path in sorted(files, key=path_key))
    edges = sorted({0, len(hits), *(cut % (len(hits) + 1) for cut in cuts)})
    return [block(hits[start:end]) for start, end in itertools.pairwise(edges)]


async def collected(sources, until=None):
    findings, failures = [], []

    async def found(some):
        findings.extend(some)
        return until is None or len(findings) < until

    await sweep(sources, found, lambda number, error: failures.append((number, error)))
    return findings, failures


points = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from([b"a", b"a/b", b"a/c", b"a.x", b"b", b"b/a", b"c"]), st.integers(0, 2)),
        st.lists(st.integers(0, 9), max_size=4),
    ),
    max_size=5,
)


@given(points)
async def test_a_version_is_one_finding_with_all_its_points(given_points):
    findings, failures = await collected([Fake(blocked(files, cuts)) for files, cuts in given_points])
    assert failures == []
    wanted = {}
    for number, (files, _cuts) in enumerate(given_points):
        for path, size in files.items():
            wanted.setdefault((path, size), []).append(number)
    assert {(one.hit.path, one.hit.size): list(one.sources) for one in findings} == wanted
    assert len(findings) == len(wanted)
    assert [(one.hit.key, one.sources[0]) for one in findings] == sorted(
        (one.hit.key, one.sources[0]) for one in findings
    )


async def test_the_first_finding_does_not_wait_for_the_end():
    sources = [Fake([block((hit(b"%03d" % at, 0),)) for at in range(100)]) for _ in range(3)]
    findings, _ = await collected(sources, until=1)
    assert [(one.hit.path, list(one.sources)) for one in findings] == [(b"000", [0, 1, 2])]
    assert max(source.taken for source in sources) == 1


async def test_a_source_that_fails_ends_alone():
    broken = DamagedData("broken")
    good = [block((hit(b"a", 0),)), block((hit(b"z", 0),))]
    findings, failures = await collected([Fake(good[:1], broken), Fake(good)])
    assert failures == [(0, broken)]
    assert [(one.hit.path, list(one.sources)) for one in findings] == [(b"a", [0, 1]), (b"z", [1])]


@given(st.lists(st.lists(st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=4), max_size=4), max_size=4))
async def test_blocks_in_no_order_lose_nothing(given_points):
    """A point of no trust may say anything: what it lists is shown, and the sweep ends."""
    sources = [
        Fake([BlockHits(path_key(b"b"), tuple(hit(path, number) for path in some)) for some in blocks])
        for number, blocks in enumerate(given_points)
    ]
    findings, _ = await collected(sources)
    for number, blocks in enumerate(given_points):
        listed = {path for some in blocks for path in some}
        assert listed == {one.hit.path for one in findings if number in one.sources}
