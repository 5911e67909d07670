from __future__ import annotations

import json
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from transporter.toml_position import find_key

TEXT = "\n".join(
    [
        'top = "a # no comment"',
        "[one]",
        'long = """',
        "[not.a.table]",
        "key = 1",
        '"""',
        "raw = '''",
        "x = \"\"\" '''",
        'after = [ "]", { inner = 1, "quoted.key" = 2 }, # comment ]',
        "  3 ]",
        '[one."two.three"]   # dotted and quoted',
        "  deep . er = 1979-05-27T07:32:00",
        "[[many]]",
        "k = 'it is'",
    ]
)


def test_keys_are_found_among_everything_that_looks_like_one():
    places = {
        ("top",): (1, 1),
        ("one",): (2, 2),
        ("one", "long"): (3, 1),
        ("one", "raw"): (7, 1),
        ("one", "after"): (9, 1),
        ("one", "after", "quoted.key"): (9, 29),
        ("one", "two.three"): (11, 6),
        ("one", "two.three", "deep"): (12, 3),
        ("one", "two.three", "deep", "er"): (12, 10),
        ("many",): (13, 3),
        ("many", "k"): (14, 1),
    }
    assert {path: find_key(TEXT, path) for path in places} == places


def test_what_is_not_there_is_looked_for_above():
    assert find_key(TEXT, ("one", "two.three", "nothing")) == (11, 6)
    assert find_key(TEXT, ("nothing",)) == (1, 1)


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), min_size=1, max_size=8)
VALUES = st.recursive(
    st.integers(-5, 5) | st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=8) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_every_key_of_any_document_is_found(data):
    lines, places = [], {}
    for section, keys in data.items():
        lines.append(f"[ {json.dumps(section, ensure_ascii=False)}]")
        places[section,] = (len(lines), 3)
        for key, value in keys.items():
            lines.append(f"{json.dumps(key, ensure_ascii=False)} = {json.dumps(value, ensure_ascii=False)} # x")
            places[section, key] = (len(lines), 1)
    text = "\n".join(lines)
    assert tomllib.loads(text) == data
    assert {path: find_key(text, path) for path in places} == places
