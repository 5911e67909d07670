"""The frozen vectors of heads: what versions 1 and 2 are, byte for byte, and how what is not one is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import msgspec
import pytest

from transporter import errors
from transporter.keys.session_key import MetaKey
from transporter.repository.point_head import PointHead, decode_head, encode_head

VECTORS = Path(__file__).parents[1] / "vectors" / "heads"
CASES = json.loads((VECTORS / "heads.json").read_text())


def as_written(value):
    """Return a field of the vectors, with its bytes as bytes."""
    if isinstance(value, dict) and set(value) == {"hex"}:
        return bytes.fromhex(value["hex"])
    if isinstance(value, dict):
        return {name: as_written(each) for name, each in value.items()}
    return [as_written(each) for each in value] if isinstance(value, list) else value


def test_the_frozen_file_is_what_the_table_says():
    spec = importlib.util.spec_from_file_location("make_head_vectors", VECTORS / "make.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert json.loads(json.dumps(maker.build())) == {"heads.json": CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_head(case):
    raw = bytes.fromhex(case["head"])
    if case["expect"] != "ok":
        expected = getattr(errors, case["expect"])
        with pytest.raises(expected) as caught:
            decode_head(raw)
        assert type(caught.value) is expected
        return
    head = decode_head(raw)
    fields = as_written(case["fields"])
    fields |= {name: list(map(tuple, fields[name])) for name in ("manifest", "fsi") if name in fields}
    assert head == PointHead(**fields)
    assert encode_head(PointHead(**fields)) == raw
    if head.encrypted:
        unsigned = encode_head(msgspec.structs.replace(head, mac=b""))
        assert MetaKey.from_secret(bytes.fromhex(case["metakey"])).mac(unsigned) == head.mac
