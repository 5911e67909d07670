from __future__ import annotations

import json
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter import events
from transporter.events import Event, EventBus, display_path, event_from_dict, event_to_dict

KINDS = get_args(events.AnyEvent)


def test_every_event_is_in_the_union():
    defined = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)} - {Event}
    assert set(KINDS) == defined


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_crosses_json_unchanged(kind):
    samples = {str: "x", int: 7, float: 1.5, bytes: b"\xff", bool: True}
    samples |= {list[kind]: [] for kind in (events.FoundFile, events.ListedFile, events.FoundDifference)}
    fields = {field.name: samples.get(field.type, 7) for field in msgspec.structs.fields(kind)}
    event = kind(**fields)
    assert event_from_dict(json.loads(json.dumps(event_to_dict(event)))) == event
    assert next(iter(event_to_dict(event))) == "event"


def test_the_end_of_a_job_has_the_documented_fields():
    fields = event_to_dict(events.JobFinished(job="docs", operation="backup"))
    documented = "job point kind bytes_read bytes_new bytes_sent files files_unchanged seconds streams zone"
    assert set(documented.split()) <= set(fields)
    assert fields["event"] == "job_finished"


@pytest.mark.parametrize("fields", [{}, {"event": "unheard_of"}, {"event": "note"}, {"event": "note", "text": 3}])
def test_what_is_no_event_is_refused(fields):
    with pytest.raises(ValueError, match="not an event"):
        event_from_dict(fields)


@given(st.binary())
def test_any_path_can_be_shown_on_one_line(path):
    shown = display_path(path)
    shown.encode("utf-8")
    assert shown.isprintable()


def test_paths_that_need_no_escape_stay():
    assert display_path("ä/b c".encode()) == "ä/b c"
    assert display_path(b"a\n\xff") == "a\\n\\xff"


def test_subscribers_hear_in_order_until_they_leave():
    bus, heard = EventBus(), []
    leave = bus.subscribe(lambda event: heard.append(("first", event)))
    bus.subscribe(lambda event: heard.append(("second", event)))
    one, two = events.Note(text="1"), events.Note(text="2")
    bus.publish(one)
    leave()
    bus.publish(two)
    assert heard == [("first", one), ("second", one), ("second", two)]


def test_a_broken_watcher_is_dropped_and_told():
    bus, heard = EventBus(), []

    def broken(event):
        raise RuntimeError("no terminal")

    bus.subscribe(broken)
    bus.subscribe(heard.append)
    with pytest.warns(RuntimeWarning, match="no terminal"):
        bus.publish(events.Note(text="1"))
    bus.publish(events.Note(text="2"))
    assert len(heard) == 2
