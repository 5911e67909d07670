"""The frozen vectors of the file-system index: what a block is, byte for byte, where blocks end, and what is none."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path

import pytest

from transporter import errors
from transporter.keys.chunk_id import ChunkIdKey
from transporter.workloads.entry import Entry
from transporter.workloads.fsi import FsiBlock, Row, encode_block
from transporter.workloads.fsi_builder import FsiBuilder, fsi_seed

VECTORS = Path(__file__).parents[1] / "vectors" / "fsi"
BLOCKS, BORDERS = (json.loads((VECTORS / f"{name}.json").read_text()) for name in ("blocks", "borders"))


def test_the_frozen_files_are_what_the_table_says():
    spec = importlib.util.spec_from_file_location("make_fsi_vectors", VECTORS / "make.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert json.loads(json.dumps(maker.build())) == {"blocks.json": BLOCKS, "borders.json": BORDERS}


@pytest.mark.parametrize("case", BLOCKS, ids=lambda case: case["name"])
def test_a_block(case):
    raw = bytes.fromhex(case["block"])
    if case["expect"] != "ok":
        expected = getattr(errors, case["expect"])
        with pytest.raises(expected) as caught:
            FsiBlock.parse(raw)
        assert type(caught.value) is expected
        return
    rows = [Row(bytes.fromhex(path), size, time, kind) for path, size, time, kind in case["rows"]]
    block = FsiBlock.parse(raw)
    assert block.rows() == rows
    assert [Row(r.path, block.size(at), block.mtime_ns(at), block.kind(at)) for at, r in enumerate(rows)] == rows
    assert encode_block(*zip(*rows, strict=True)) == raw


@pytest.mark.parametrize("case", BORDERS, ids=lambda case: case["name"])
def test_where_blocks_end(case):
    seed = fsi_seed(ChunkIdKey(bytes.fromhex(case["chunk_id_key"])).id_of)
    assert seed == case["seed"]
    builder = FsiBuilder(seed)
    blocks = builder.add([Entry(b"srv/%d" % at, "f", size=at, mtime_ns=at) for at in range(5000)])
    assert list(itertools.accumulate(FsiBlock.parse(block).count for block in blocks)) == case["ends"]
