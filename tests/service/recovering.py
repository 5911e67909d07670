"""A recovery without its two commands: what the escrow and the node do with keys."""

from __future__ import annotations

from transporter.keys.key_ring import check_opens
from transporter.keys.node_key import pin_of
from transporter.keys.recovery import answer_request, open_response, read_request, read_response


def recover(node, text, keyset):
    """What an escrow that has ``keyset`` does with a request of ``node``, and then the node with the response."""
    request, asked = read_request(text)
    text = answer_request(request, asked, keyset, lambda maker: maker == pin_of(request.node), node.clock)
    response = read_response(text, node.keys.keyset_of_request)
    opened = node.keys.open_request(response.request)
    key = open_response(response, opened.one_time)
    check_opens(key, opened.ring.first, opened.ring.length, opened.ring.context)
    node.keys.keep_recovered(opened, key)
