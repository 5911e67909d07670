"""Draw docs/protocol-states.md from the tables of protocol/states.py.

python docs/draw_states.py            write the page
python docs/draw_states.py --check    exit 1 if the page is not what the tables say
"""

from __future__ import annotations

import sys
from pathlib import Path

from protocol import states

PAGE = Path(__file__).with_name("protocol-states.md")
SHORT = {states.INITIATOR: "initiator", states.PROVIDER: "provider", states.ACCEPTOR: "acceptor"}


def control_diagram() -> list[str]:
    """Return the control connection as a mermaid diagram: one arrow for each pair of states, loops left out."""
    lines = ["stateDiagram-v2", f"    [*] --> {states.CONTROL_START}"]
    for state, row in states.CONTROL.items():
        arrows: dict[str, list[str]] = {}
        for (sender, name), target in row.items():
            if target != state:
                arrows.setdefault(target, []).append(f"{SHORT[sender]} {name}")
        lines += [f"    {state} --> {target}: {'<br/>'.join(names)}" for target, names in arrows.items()]
    return lines


def control_loops() -> list[str]:
    """Return a table of the messages that leave a state as it is."""
    lines = ["| in state | initiator may send | provider may send |", "| --- | --- | --- |"]
    for state, row in states.CONTROL.items():
        said = {
            side: [name for (sender, name), target in row.items() if sender == side and target == state]
            for side in (states.INITIATOR, states.PROVIDER)
        }
        if any(said.values()):
            cells = [", ".join(said[side]) or "–" for side in (states.INITIATOR, states.PROVIDER)]
            lines.append(f"| {state} | {cells[0]} | {cells[1]} |")
    return lines


def answers() -> list[str]:
    """Return a table of replies and the requests they need."""
    lines = ["| reply | answers |", "| --- | --- |"]
    lines += [f"| {reply} | {', '.join(requests)} |" for reply, requests in states.ANSWERS.items()]
    return lines


def data_diagram() -> list[str]:
    """Return one direction of a data channel as a mermaid diagram; dotted triggers are labelled with the other side."""
    lines = ["stateDiagram-v2"]
    starts: dict[str, list[str]] = {}
    for (first, sender), state in states.DATA_START.items():
        starts.setdefault(state, []).append(f"{'channel 0' if first else 'other channels'}, {SHORT[sender]}")
    lines += [f"    [*] --> {state}: {'<br/>'.join(who)}" for state, who in starts.items()]
    for state, row in states.DATA.items():
        arrows: dict[str, list[str]] = {}
        for name, target in row.items():
            arrows.setdefault(target, []).append(name)
        lines += [f"    {state} --> {target}: {'<br/>'.join(names)}" for target, names in arrows.items()]
    lines += [
        f"    {before} --> {after}: the other side sends {name}"
        for name, (before, after) in states.DATA_TRIGGERS.items()
    ]  # fmt: skip
    return lines


def page() -> str:
    """Return the whole page."""
    heartbeat = " and ".join(sorted(states.HEARTBEAT))
    blocks = [
        ["# States of the protocol"],
        ["Drawn from `protocol/states.py` by `docs/draw_states.py`; a test fails when this page is not current."],
        ["## Control connection"],
        ["Both sides run this machine. An arrow is who sends what; what has no arrow and no row below is an error."],
        ["```mermaid", *control_diagram(), "```"],
        ["Messages that leave the state as it is:"],
        control_loops(),
        [f"{heartbeat} may be sent by both sides in every state except {', '.join(sorted(states.NO_HEARTBEAT))}."],
        ["A reply needs its request:"],
        answers(),
        ["## Data channel, one direction"],
        ["Each direction of a channel has a state of its own; two messages move the other direction, too."],
        ["```mermaid", *data_diagram(), "```"],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def main(arguments: list[str]) -> int:
    """Write or check the page."""
    if "--check" in arguments:
        return 0 if PAGE.exists() and PAGE.read_text() == page() else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
