"""A data channel: sealed frames over any carrier of bytes. Sans-IO.

    initiator                                   acceptor
    DataChannel.initiate(...)
        data_to_send()  ── preface ──▶          parse_preface(...) → DataChannel.accept(...)
                        ◀── answer ──               data_to_send()
    channel 0 only:
        switch_to_key_b(key_b)  ── KeyB ──▶     next_event() → KeyB
        next_event()  ◀── KeyBProof ──              switch_to_key_b(key_b)
    then, both ways:  seal_chunk(...), …, finish()

Receiving: ``while (event := channel.next_event()) is NEED_DATA: n = receive_into(channel.get_buffer());
channel.buffer_updated(n)``, and ``eof()`` when the carrier ended. After any error the channel is dead.
"""

from __future__ import annotations

import enum
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final

from protocol import limits, states
from protocol.channel_cipher import DirectionCipher, check_commitment
from protocol.channel_keys import FROM_ACCEPTOR, FROM_INITIATOR, answer_salt, key_b_proof
from protocol.errors import LocalProtocolError, ProtocolError, RemoteProtocolError, TamperingError, TruncatedError
from protocol.frame import Buffer, decode_data, encode
from protocol.frame_reader import FrameReader
from protocol.limits import REKEY, RekeyLimits
from protocol.messages import Chunk, Fin, KeyB, KeyBProof, Message, Piece, Rekey
from protocol.preface import ANSWER_LENGTH, PREFACE_LENGTH, PREFACE_MAGIC, Preface, parse_preface

# Room in front of a chunk's stored bytes for the front of its frame's body (77 bytes at most).
HEADROOM: Final = 128
_OWN_MESSAGES: Final = (KeyB, KeyBProof, Rekey, Fin)
_SMALLEST: Final = limits.BODY_PREFIX + 1 + limits.TAG
_SCRATCH_STEP: Final = 64 * limits.KIB


class NeedData(enum.Enum):
    """The type of `NEED_DATA`."""

    NEED_DATA = enum.auto()


NEED_DATA: Final = NeedData.NEED_DATA


@dataclass(frozen=True, slots=True)
class Event:
    """A message of the peer. ``payload`` lies in memory that belongs to this event alone."""

    message: Message
    payload: memoryview = field(repr=False)


class DataChannel:
    """One side of a data channel. One task may send and another receive; seal calls must not overlap.

    Make one with `initiate` or `accept`. ``number`` is the channel's number, ``dead`` is set by the first error.
    """

    def __init__(
        self, role: str, preface: Preface, input_key: bytes, binding: bytes, rekey: RekeyLimits, acceptor_salt: bytes
    ) -> None:
        self.role = role
        self.peer = states.ACCEPTOR if role == states.INITIATOR else states.INITIATOR
        self.number = preface.channel
        self.dead = False
        self._preface = preface
        self._binding = binding
        self._rekey = rekey
        self._state = {
            states.INITIATOR: states.DATA_START[self.number == 0, states.INITIATOR],
            states.ACCEPTOR: states.DATA_START[self.number == 0, states.ACCEPTOR],
        }
        self._key_b: bytes | None = None
        self._scratch = memoryview(bytearray(0))
        self._to_send = b""
        if role == states.ACCEPTOR:
            self._receive = self._cipher(input_key, FROM_INITIATOR, preface.salt)
            check_commitment(self._receive.commitment, preface.commitment, self.number)
            self._send = self._cipher(input_key, FROM_ACCEPTOR, answer_salt(preface.salt, acceptor_salt))
            self._to_send = acceptor_salt + self._send.commitment
            self._answer_key: bytes | None = None
            self._reader = FrameReader(self._check_length)
        else:
            self._send = self._cipher(input_key, FROM_INITIATOR, preface.salt)
            # The peer's salt, and so its direction's key, comes with its answer.
            self._receive = self._send
            self._answer_key = input_key
            self._reader = FrameReader(self._check_length, first=ANSWER_LENGTH)

    def _cipher(self, input_key: bytes, direction: bytes, salt: bytes) -> DirectionCipher:
        return DirectionCipher(
            input_key, direction, self.number, self._preface.session, salt, self._binding, self._rekey
        )  # fmt: skip

    @staticmethod
    def initiate(
        channel: int, session: bytes, input_key: bytes, binding: bytes, salt: bytes, *, rekey: RekeyLimits = REKEY
    ) -> DataChannel:
        """Open channel ``channel`` (0 … 31) of a session. ``input_key`` is Key A for channel 0, Key B for the others.

        ``salt``: 24 random bytes, fresh for each call. The preface waits in `data_to_send`.
        """
        blank = Preface(channel, session, salt, bytes(limits.COMMITMENT))
        made = DataChannel(states.INITIATOR, blank, input_key, binding, rekey, b"")
        made._preface = Preface(channel, session, salt, made._send.commitment)
        made._to_send = bytes(made._preface)
        return made

    @staticmethod
    def accept(
        preface: Preface, input_key: bytes, binding: bytes, *, salt: bytes | None = None, rekey: RekeyLimits = REKEY
    ) -> DataChannel:
        """Accept a channel whose preface named a known session; the answer waits in `data_to_send`.

        Whoever calls this accepts each channel number of a session at most once: that is what makes a replay of a
        whole channel fail. ``salt``: 24 random bytes; made here if not given. Raises TamperingError at a commitment
        that is not ours: another key, identity or TLS connection.
        """
        own_salt = secrets.token_bytes(limits.SALT) if salt is None else salt
        return DataChannel(states.ACCEPTOR, preface, input_key, binding, rekey, own_salt)

    # --- what others may know -------------------------------------------------------------------------------

    @property
    def epochs(self) -> tuple[int, int]:
        """Return the epoch of what is sent and of what is received."""
        return self._send.epoch, self._receive.epoch

    @property
    def finished(self) -> bool:
        """Tell whether both directions have ended with their FIN."""
        return set(self._state.values()) == {"FINISHED"}

    def state_of(self, role: str) -> str:
        """Return the state of the direction in which ``role`` sends: a key of ``states.DATA``."""
        return self._state[role]

    # --- sending --------------------------------------------------------------------------------------------

    def data_to_send(self) -> bytes:
        """Return what the channel itself has to say first (preface or answer), once."""
        data, self._to_send = self._to_send, b""
        return data

    def switch_to_key_b(self, key_b: bytes) -> bytes:
        """Go on under Key B; return the frame to send. Channel 0 only; Key A is forgotten.

        Initiator: returns KeyB, sealed under Key A. Nothing may be sent then until KeyBProof has come.
        Acceptor, after the KeyB event: returns KeyBProof, sealed under Key B.
        """
        if len(key_b) != limits.KEY:
            raise LocalProtocolError("Key B has 32 bytes")
        if self.role == states.INITIATOR:
            frame = self._seal(KeyB(key=key_b), b"")
            self._send.switch(key_b)
            self._key_b = key_b
            if self._answer_key is None:
                self._receive.switch(key_b)
            return frame
        if self._key_b is not None and not hmac.compare_digest(self._key_b, key_b):
            raise LocalProtocolError("this is not the Key B that came")
        self._step(self.role, KeyBProof, LocalProtocolError, move=False)
        self._send.switch(key_b)
        frame = self._seal(KeyBProof(mac=key_b_proof(key_b, self._preface.session, self._binding)), b"")
        self._key_b = None
        return frame

    def seal(self, message: Message, payload: Buffer = b"") -> bytes:
        """Return a sealed frame with a small message. Raises LocalProtocolError when it may not be sent now."""
        if isinstance(message, _OWN_MESSAGES):
            raise LocalProtocolError(f"{type(message).__name__} is sent by the channel itself")
        return self._seal(message, payload)

    def finish(self) -> bytes:
        """Return the FIN of this side's direction; nothing can be sent after it."""
        due = self._rekey_frame()
        fin = Fin(frames=self._send.frames, payload_bytes=self._send.payload_bytes)
        return due + self._seal(fin, b"", rekey=False)

    def _seal(self, message: Message, payload: Buffer, *, rekey: bool = True) -> bytes:
        front, rest = encode(message, payload)
        self._step(self.role, type(message), LocalProtocolError)
        before = self._rekey_frame() if rekey else b""
        self._send.payload_bytes += len(rest)
        return before + self._send.seal(front + rest if len(rest) else front)

    def _rekey_frame(self) -> bytes:
        """Return the Rekey frame that has to come first, if one is due, and go on to its epoch."""
        self._alive()
        if not self._send.rekey_due() or self._state[self.role] != "OPEN":
            return b""
        message = Rekey(epoch=self._send.epoch + 1, commitment=self._send.next_commitment())
        frame = self._send.seal(encode(message)[0])
        self._send.next_epoch()
        return frame

    def seal_chunk(self, header: Chunk, buffer: Buffer) -> memoryview:
        """Return the sealed frame of a chunk; it is valid until the next call.

        ``buffer`` is ``[HEADROOM bytes][stored bytes]``. The front of the body is written into the end of the headroom;
        the stored bytes stay as they are, so that the buffer may be sent again. Read-only memory costs a copy.
        """
        view = memoryview(buffer)
        if len(view) < HEADROOM:
            raise LocalProtocolError("a chunk's buffer begins with its headroom")
        front, stored = encode(header, view[HEADROOM:])
        self._step(self.role, Chunk, LocalProtocolError)
        before = self._rekey_frame()
        start = len(before)
        body_length = len(front) + len(stored)
        end = start + limits.LENGTH_WORD + body_length + limits.TAG
        frame = self._room(end)
        if view.readonly:
            body = frame[start + limits.LENGTH_WORD : end - limits.TAG]
            body[: len(front)] = front
            body[len(front) :] = stored
        else:
            view[HEADROOM - len(front) : HEADROOM] = front
            body = view[HEADROOM - len(front) :]
        frame[:start] = before
        self._send.payload_bytes += len(stored)
        self._send.seal_into(body, frame[start:])
        return frame

    def _room(self, size: int) -> memoryview:
        """Return the first ``size`` bytes of this channel's own memory for frames; it grows, and is used again."""
        if len(self._scratch) < size:
            self._scratch = memoryview(bytearray(-(-size // _SCRATCH_STEP) * _SCRATCH_STEP))
        return self._scratch[:size]

    def let_go(self) -> None:
        """Free the memory that frames were in; the channel is of no use afterwards.

        Channel and reader refer to each other: without this, MiBs would wait for the collector, a session at a time.
        """
        self._scratch = memoryview(b"")
        self._reader = FrameReader(self._check_length)

    # --- receiving ------------------------------------------------------------------------------------------

    def get_buffer(self) -> memoryview:
        """Return memory to receive into. Call `next_event` until it says NEED_DATA first."""
        self._alive()
        return self._reader.get_buffer()

    @property
    def missing(self) -> int:
        """Return how many bytes the current frame still lacks: a receiver may wait for as many, and for no more."""
        return self._reader.missing

    def buffer_updated(self, count: int) -> None:
        """Note that ``count`` bytes were received into the start of the buffer."""
        self._reader.buffer_updated(count)

    def next_event(self) -> Event | NeedData:
        """Return the peer's next message, or NEED_DATA. Raises RemoteProtocolError, TamperingError; dead after that."""
        self._alive()
        try:
            if self._state[self.peer] == "FINISHED":
                self._nothing_follows()
                return NEED_DATA
            while (frame := self._reader.next_frame()) is not None:
                if self._answer_key is not None:
                    self._take_answer(frame, self._answer_key)
                    continue
                event = self._open(frame)
                if event is not None:
                    return event
        except RemoteProtocolError:
            self._die()
            raise
        return NEED_DATA

    def receive_data(self, data: Buffer) -> list[Event]:
        """Take bytes of any length and return the events in them; for tests and for carriers that own their memory."""
        view = memoryview(data)
        events: list[Event] = []
        while True:
            while (event := self.next_event()) is not NEED_DATA:
                events.append(event)
            if not view:
                return events
            buffer = self.get_buffer()
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            self.buffer_updated(count)
            view = view[count:]

    def eof(self) -> None:
        """Note that the carrier ended. Raises TruncatedError unless the peer's FIN came first."""
        self._alive()
        if self._state[self.peer] != "FINISHED":
            self._die()
            raise TruncatedError(f"channel {self.number}: the connection ended without a FIN")

    def _check_length(self, length: int) -> None:
        if not _SMALLEST <= length <= limits.MAX_DATA_FRAME:
            raise TamperingError(
                f"a frame of {length} bytes, {_SMALLEST} to {limits.MAX_DATA_FRAME} are allowed",
                failed="length",
                channel=self.number,
            )

    def _nothing_follows(self) -> None:
        if self._reader.pending:
            raise TamperingError("bytes follow the FIN", failed="trailing", channel=self.number)

    def _take_answer(self, answer: memoryview, input_key: bytes) -> None:
        """Check the acceptor's commitment; its direction is open then."""
        salt, shown = bytes(answer[: limits.SALT]), bytes(answer[limits.SALT :])
        cipher = self._cipher(input_key, FROM_ACCEPTOR, answer_salt(self._preface.salt, salt))
        check_commitment(cipher.commitment, shown, self.number)
        if self._key_b is not None:
            cipher.switch(self._key_b)
        self._receive = cipher
        self._answer_key = None

    def _open(self, frame: memoryview) -> Event | None:
        """Open a frame; return its event, or None for what the channel settles itself."""
        cipher = self._receive
        frames = cipher.frames
        message, payload = decode_data(cipher.open_in_place(frame))
        self._step(self.peer, type(message), RemoteProtocolError)
        if isinstance(message, Chunk | Piece):
            cipher.payload_bytes += len(payload)
        elif isinstance(message, Rekey):
            cipher.accept_epoch(message.epoch, message.commitment)
            return None
        elif isinstance(message, Fin):
            if (message.frames, message.payload_bytes) != (frames, cipher.payload_bytes):
                raise RemoteProtocolError(f"channel {self.number}: the totals of the FIN are not those of its frames")
        elif isinstance(message, KeyB):
            self._key_b = message.key
            cipher.switch(message.key)
        elif isinstance(message, KeyBProof):
            self._check_proof(message)
        return Event(message, payload)

    def _check_proof(self, proof: KeyBProof) -> None:
        key_b, self._key_b = self._key_b, None
        expected = key_b_proof(key_b or b"", self._preface.session, self._binding)
        if key_b is None or not hmac.compare_digest(expected, proof.mac):
            raise TamperingError("the peer did not prove that it has Key B", failed="proof", channel=self.number)

    # --- state ----------------------------------------------------------------------------------------------

    def _step(self, sender: str, kind: type[Message], error: type[ProtocolError], *, move: bool = True) -> None:
        """Move ``sender``'s direction on in the table, or raise ``error`` and stay."""
        self._alive()
        name = kind.__name__
        target = states.DATA[self._state[sender]].get(name)
        if target is None:
            raise error(f"channel {self.number}: the {sender} may not send {name} in state {self._state[sender]}")
        if not move:
            return
        self._state[sender] = target
        if name in states.DATA_TRIGGERS:
            other = self.peer if sender == self.role else self.role
            before, after = states.DATA_TRIGGERS[name]
            if self._state[other] == before:
                self._state[other] = after

    def _alive(self) -> None:
        if self.dead:
            raise LocalProtocolError(f"channel {self.number} is dead: an error ended it")

    def _die(self) -> None:
        self.dead = True
        self._key_b = self._answer_key = None


__all__ = [
    "HEADROOM", "NEED_DATA", "PREFACE_LENGTH", "PREFACE_MAGIC", "DataChannel", "Event", "NeedData", "Preface",
    "parse_preface",
]  # fmt: skip
