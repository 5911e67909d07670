import pytest, trio, os
from collections import Counter
from transporter.link.data_link import DataLink
from transporter.link.broken import LinkBroken
from protocol.messages import Chunk
from world import *
@pytest.mark.parametrize("job", ["docs", "target", "none", "rest"])
async def test_cuts(world, monkeypatch, job):
    original = DataLink.receive
    counts = Counter()
    async def receive(self):
        event = await original(self)
        if self._channel.role == "acceptor" and isinstance(event.message, Chunk):
            counts["frames"] += 1
            if counts["frames"] in (6, 12, 18):
                await trio.sleep(0.2)
                raise LinkBroken("evil")
        return event
    monkeypatch.setattr(DataLink, "receive", receive)
    for n in range(6):
        (world.source.tree / f"x{n}").write_bytes(os.urandom(4_000_000))
    done = await world.source.backup(job)
    print(done.redials, counts)
    assert done.redials >= 2
    monkeypatch.undo()
    await world.source.verify(job)
    assert contents(await world.source.restore(job)) == contents(world.source.tree)
