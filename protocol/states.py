"""When which message may be sent: state machines as tables.

The rules, in words:

* Control connection. Both sides say Hello, in any order. Then the initiator asks and the provider answers, one request
  at a time: Pair, ListPoints, GetPoint, GetSlots, PutSlots, GetChain, RemovePoints, PinPoint, UndeletePoint, FoldPoint,
  StatusRequest, Mandate, CopyTo. Start opens a session; in a session requests overlap freely, and a reply without its
  request is the provider's fault. Refused ends the request, or the session it comes in. Stop ends a session; the
  provider still says what was under way and then Stopped. Ping and Pong fit everywhere after the Hellos. Limit fits
  everywhere in a session, from both sides, and has no answer; after Stop the initiator sends none.
* Park keeps a connection for the other side's use: from then on only the provider speaks (Incoming).
* Both sides run the *same* machine: an event is who sends what. That works because wherever messages of both sides can
  cross (OPENING_…, BACKUP, RECOVERY, COPY_…, STOPPING, REFUSED) their order does not matter.
* Data channel. Each direction has its own state. On channel 0 the initiator's only frame under Key A is KeyB, then it
  waits for KeyBProof. FIN is the last frame of a direction.

What is not in a table is an error: ours when we try to send it, the peer's when it arrives.
docs/protocol-states.md is drawn from these tables by docs/draw_states.py.
"""

from __future__ import annotations

from typing import Final

INITIATOR: Final = "initiator"
PROVIDER: Final = "provider"
ACCEPTOR: Final = "acceptor"

# --- control connection --------------------------------------------------------------------------------------

Event = tuple[str, str]
I = INITIATOR  # noqa: E741 - columns of the tables below
P = PROVIDER

CONTROL_START: Final = "HELLO"
CONTROL_CLOSED: Final = "CLOSED"

# A refinement of the message's name: what a field of it decides. See `control_event`.
CONTROL: Final[dict[str, dict[Event, str]]] = {
    "HELLO": {(I, "Hello"): "HELLO_FROM_INITIATOR", (P, "Hello"): "HELLO_FROM_PROVIDER"},
    "HELLO_FROM_INITIATOR": {(P, "Hello"): "IDLE"},
    "HELLO_FROM_PROVIDER": {(I, "Hello"): "IDLE"},
    "IDLE": {
        (I, "Pair"): "PAIRING",
        (I, "ListPoints"): "LISTING",
        (I, "GetPoint"): "READING_POINT",
        (I, "StatusRequest"): "ASKING_STATUS",
        (I, "GetSlots"): "READING_SLOTS",
        (I, "PutSlots"): "PUTTING_SLOTS",
        (I, "GetChain"): "READING_CHAIN",
        (I, "RemovePoints"): "REMOVING_POINTS",
        (I, "PinPoint"): "PINNING_POINT",
        (I, "UndeletePoint"): "UNDELETING_POINT",
        (I, "FoldPoint"): "FOLDING_POINT",
        (I, "Start backup"): "STARTING_BACKUP",
        (I, "Start recovery"): "STARTING_RECOVERY",
        (I, "Start copy-in"): "STARTING_COPY_IN",
        (I, "Start copy-seal"): "STARTING_COPY_IN",
        (I, "Start copy-out"): "STARTING_COPY_OUT",
        (I, "Mandate"): "MANDATING",
        (I, "CopyTo"): "COPYING_TO",
        (I, "Park"): "PARKING",
        (I, "Reach"): "REACHING",
    },
    "MANDATING": {(P, "Mandated"): "IDLE", (P, "Refused"): "IDLE"},
    "COPYING_TO": {(P, "Progress"): "COPYING_TO", (P, "CopiedTo"): "IDLE", (P, "Refused"): "IDLE"},
    "PARKING": {(P, "Parked"): "PARKED", (P, "Refused"): "IDLE"},
    "PARKED": {(P, "Incoming"): "PARKED", (P, "Refused"): "REFUSED"},
    "REACHING": {(P, "Tickets"): "IDLE", (P, "Refused"): "IDLE"},
    "PAIRING": {(P, "Paired"): "IDLE", (P, "Refused"): "IDLE"},
    "LISTING": {(P, "Points more"): "LISTING", (P, "Points"): "IDLE", (P, "Refused"): "IDLE"},
    "READING_POINT": {(P, "PointHead"): "IDLE", (P, "Refused"): "IDLE"},
    "READING_SLOTS": {(P, "Slots"): "IDLE", (P, "Refused"): "IDLE"},
    "PUTTING_SLOTS": {(P, "SlotsPut"): "IDLE", (P, "Refused"): "IDLE"},
    "READING_CHAIN": {(P, "Chain"): "IDLE", (P, "Refused"): "IDLE"},
    "REMOVING_POINTS": {(P, "PointsRemoved"): "IDLE", (P, "Refused"): "IDLE"},
    "PINNING_POINT": {(P, "PointPinned"): "IDLE", (P, "Refused"): "IDLE"},
    "UNDELETING_POINT": {(P, "PointUndeleted"): "IDLE", (P, "Refused"): "IDLE"},
    "FOLDING_POINT": {(P, "PointFolded"): "IDLE", (P, "Refused"): "IDLE"},
    "ASKING_STATUS": {(P, "StatusReply"): "IDLE", (P, "Refused"): "IDLE"},
    "STARTING_BACKUP": {(P, "Started"): "OPENING_BACKUP", (P, "Progress"): "STARTING_BACKUP", (P, "Refused"): "IDLE"},
    "STARTING_RECOVERY": {
        (P, "Started"): "OPENING_RECOVERY",
        (P, "Progress"): "STARTING_RECOVERY",
        (P, "Refused"): "IDLE",
    },
    "STARTING_COPY_IN": {
        (P, "Started"): "OPENING_COPY_IN",
        (P, "Progress"): "STARTING_COPY_IN",
        (P, "Refused"): "IDLE",
    },
    "STARTING_COPY_OUT": {
        (P, "Started"): "OPENING_COPY_OUT",
        (P, "Progress"): "STARTING_COPY_OUT",
        (P, "Refused"): "IDLE",
    },
    "OPENING_BACKUP": {
        (P, "Ready"): "BACKUP",
        (I, "Limit"): "OPENING_BACKUP",
        (P, "Limit"): "OPENING_BACKUP",
        (P, "Refused"): "REFUSED",
        (I, "Stop"): "STOPPING",
    },
    "OPENING_RECOVERY": {
        (P, "Ready"): "RECOVERY",
        (I, "Limit"): "OPENING_RECOVERY",
        (P, "Limit"): "OPENING_RECOVERY",
        (P, "Refused"): "REFUSED",
        (I, "Stop"): "STOPPING",
    },
    "OPENING_COPY_IN": {
        (P, "Ready"): "COPY_IN",
        (I, "Limit"): "OPENING_COPY_IN",
        (P, "Limit"): "OPENING_COPY_IN",
        (P, "Refused"): "REFUSED",
        (I, "Stop"): "STOPPING",
    },
    "OPENING_COPY_OUT": {
        (P, "Ready"): "COPY_OUT",
        (I, "Limit"): "OPENING_COPY_OUT",
        (P, "Limit"): "OPENING_COPY_OUT",
        (P, "Refused"): "REFUSED",
        (I, "Stop"): "STOPPING",
    },
    "BACKUP": {
        (I, "Have"): "BACKUP",
        (P, "HaveReply"): "BACKUP",
        (P, "Stored"): "BACKUP",
        (I, "Get"): "BACKUP",
        (P, "Missing"): "BACKUP",
        (I, "GetPoint"): "BACKUP",
        (P, "PointHead"): "BACKUP",
        (I, "GetChain"): "BACKUP",
        (P, "Chain"): "BACKUP",
        (I, "ListPoints"): "BACKUP",
        (P, "Points more"): "BACKUP",
        (P, "Points"): "BACKUP",
        (I, "GetLost"): "BACKUP",
        (P, "Lost"): "BACKUP",
        (I, "Flush"): "BACKUP",
        (P, "Flushed"): "BACKUP",
        (I, "Needs"): "BACKUP",
        (I, "PutSlot"): "BACKUP",
        (P, "SlotStored"): "BACKUP",
        (I, "Commit"): "BACKUP",
        (I, "CommitPlain"): "BACKUP",
        (P, "Committed"): "BACKUP",
        (P, "Progress"): "BACKUP",
        (I, "Limit"): "BACKUP",
        (P, "Limit"): "BACKUP",
        (I, "Stop"): "STOPPING",
        (P, "Refused"): "REFUSED",
    },
    "RECOVERY": {
        (I, "Get"): "RECOVERY",
        (P, "Missing"): "RECOVERY",
        (I, "GetPoint"): "RECOVERY",
        (P, "PointHead"): "RECOVERY",
        (I, "ListPoints"): "RECOVERY",
        (P, "Points more"): "RECOVERY",
        (P, "Points"): "RECOVERY",
        (P, "Progress"): "RECOVERY",
        (I, "Limit"): "RECOVERY",
        (P, "Limit"): "RECOVERY",
        (I, "Stop"): "STOPPING",
        (P, "Refused"): "REFUSED",
    },
    "COPY_IN": {
        (I, "GetForms"): "COPY_IN",
        (P, "Forms"): "COPY_IN",
        (P, "Stored"): "COPY_IN",
        (I, "GetDigests"): "COPY_IN",
        (P, "Digests"): "COPY_IN",
        (I, "Needs"): "COPY_IN",
        (I, "PutSlot"): "COPY_IN",
        (I, "CommitCopy"): "COPY_IN",
        (P, "Committed"): "COPY_IN",
        (P, "Progress"): "COPY_IN",
        (I, "Limit"): "COPY_IN",
        (P, "Limit"): "COPY_IN",
        (I, "Stop"): "STOPPING",
        (P, "Refused"): "REFUSED",
    },
    "COPY_OUT": {
        (I, "GetCopy"): "COPY_OUT",
        (P, "CopyHead"): "COPY_OUT",
        (I, "GetNeeds"): "COPY_OUT",
        (P, "NeedsPart"): "COPY_OUT",
        (I, "GetForms"): "COPY_OUT",
        (P, "Forms"): "COPY_OUT",
        (I, "GetDigests"): "COPY_OUT",
        (P, "Digests"): "COPY_OUT",
        (I, "FetchForms"): "COPY_OUT",
        (P, "Missing"): "COPY_OUT",
        (P, "Progress"): "COPY_OUT",
        (I, "Limit"): "COPY_OUT",
        (P, "Limit"): "COPY_OUT",
        (I, "Stop"): "STOPPING",
        (P, "Refused"): "REFUSED",
    },
    # Said by the provider before it had read Stop.
    "STOPPING": {
        (P, "Ready"): "STOPPING",
        (P, "HaveReply"): "STOPPING",
        (P, "Lost"): "STOPPING",
        (P, "Stored"): "STOPPING",
        (P, "Missing"): "STOPPING",
        (P, "PointHead"): "STOPPING",
        (P, "Chain"): "STOPPING",
        (P, "Points more"): "STOPPING",
        (P, "Points"): "STOPPING",
        (P, "Flushed"): "STOPPING",
        (P, "SlotStored"): "STOPPING",
        (P, "Committed"): "STOPPING",
        (P, "CopyHead"): "STOPPING",
        (P, "NeedsPart"): "STOPPING",
        (P, "Forms"): "STOPPING",
        (P, "Digests"): "STOPPING",
        (P, "Progress"): "STOPPING",
        (P, "Limit"): "STOPPING",
        (P, "Refused"): "REFUSED",
        (P, "Stopped"): "IDLE",
    },
    # Said by the initiator before it had read Refused. The connection is of no further use but to read what it says.
    "REFUSED": {
        (I, "Have"): "REFUSED",
        (I, "GetLost"): "REFUSED",
        (I, "Get"): "REFUSED",
        (I, "GetPoint"): "REFUSED",
        (I, "GetChain"): "REFUSED",
        (I, "ListPoints"): "REFUSED",
        (I, "Flush"): "REFUSED",
        (I, "Needs"): "REFUSED",
        (I, "PutSlot"): "REFUSED",
        (I, "Commit"): "REFUSED",
        (I, "CommitPlain"): "REFUSED",
        (I, "GetCopy"): "REFUSED",
        (I, "GetNeeds"): "REFUSED",
        (I, "GetForms"): "REFUSED",
        (I, "GetDigests"): "REFUSED",
        (I, "FetchForms"): "REFUSED",
        (I, "CommitCopy"): "REFUSED",
        (I, "Limit"): "REFUSED",
        (I, "Stop"): "REFUSED",
    },
    "CLOSED": {},
}

# Fit in every state but these, from both sides, and change nothing.
HEARTBEAT: Final = frozenset({"Ping", "Pong"})
NO_HEARTBEAT: Final = frozenset({"HELLO", "HELLO_FROM_INITIATOR", "HELLO_FROM_PROVIDER", "CLOSED"})

# Reply → the requests it may answer. A reply that answers nothing is refused.
ANSWERS: Final[dict[str, tuple[str, ...]]] = {
    "HaveReply": ("Have",),
    "Flushed": ("Flush",),
    "SlotStored": ("PutSlot",),
    "Committed": ("Commit", "CommitPlain", "CommitCopy"),
    "CopyHead": ("GetCopy",),
    "NeedsPart": ("GetNeeds",),
    "Forms": ("GetForms",),
    "Digests": ("GetDigests",),
    "PointHead": ("GetPoint",),
    "Points": ("ListPoints",),
    "Chain": ("GetChain",),
    "Pong": ("Ping",),
}

# --- data channel --------------------------------------------------------------------------------------------

# Channel 0 and all others, for each sender: where its direction starts.
DATA_START: Final[dict[tuple[bool, str], str]] = {
    (True, INITIATOR): "KEY_B",
    (True, ACCEPTOR): "WAITING_FOR_KEY_B",
    (False, INITIATOR): "OPEN",
    (False, ACCEPTOR): "OPEN",
}

# Direction's state → message → next state.
DATA: Final[dict[str, dict[str, str]]] = {
    "KEY_B": {"KeyB": "WAITING_FOR_PROOF"},
    "WAITING_FOR_PROOF": {},
    "WAITING_FOR_KEY_B": {},
    "PROOF": {"KeyBProof": "OPEN"},
    "OPEN": {"Chunk": "OPEN", "Piece": "OPEN", "Rekey": "OPEN", "Fin": "FINISHED"},
    "FINISHED": {},
}

# A message moves the *other* direction too: message → (from, to).
DATA_TRIGGERS: Final[dict[str, tuple[str, str]]] = {
    "KeyB": ("WAITING_FOR_KEY_B", "PROOF"),
    "KeyBProof": ("WAITING_FOR_PROOF", "OPEN"),
}
