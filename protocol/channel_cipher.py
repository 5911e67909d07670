"""One direction of one data channel: its AEAD, its counter, its epochs.

    sealed frame = u32 length | AES-256-GCM(body) ‖ tag 16        length counts everything after itself
    nonce        = base_nonce XOR u64 counter (in its last 8 bytes); the counter starts at 0 in each epoch
    AAD          = version u8 | channel u16 | direction u8 | length u32

The counter is never sent: a frame that was dropped, repeated, moved or taken from elsewhere meets the wrong nonce, and
its tag fails. A random nonce would need a list of those seen; a counter needs nothing, and cannot repeat under one key.
"""

from __future__ import annotations

import hmac
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol import limits
from protocol.channel_keys import ChannelKey, derive
from protocol.errors import LocalProtocolError, RemoteProtocolError, TamperingError
from protocol.frame import LENGTH
from protocol.limits import RekeyLimits

VERSION: Final = 1
_AAD: Final = struct.Struct(">BHBI")


class DirectionCipher:
    """Seals, or opens, the frames of one direction in order.

    ``frames`` and ``payload_bytes`` are totals over all epochs, for FIN; whoever uses this counts the payload.
    """

    def __init__(
        self, input_key: bytes, direction: bytes, channel: int, session: bytes, salt: bytes, binding: bytes,
        rekey: RekeyLimits,
    ) -> None:  # fmt: skip
        self._input_key = input_key
        self._direction = direction
        self._channel = channel
        self._session = session
        self._salt = salt
        self._binding = binding
        self._rekey = rekey
        self.frames = 0
        self.payload_bytes = 0
        self.epoch = 0
        self._use(self._derive(0))

    def _derive(self, epoch: int) -> ChannelKey:
        return derive(self._input_key, self._direction, self._channel, epoch, self._session, self._salt, self._binding)

    def _use(self, key: ChannelKey) -> None:
        self.commitment = key.commitment
        self._aead = AESGCM(key.key)
        self._base = int.from_bytes(key.base_nonce, "big")
        self._counter = 0
        self._sealed_bytes = 0

    # --- epochs ---------------------------------------------------------------------------------------------

    def rekey_due(self) -> bool:
        """Tell whether the frame after the next must be in the next epoch: so the next one has to be Rekey."""
        return self._counter >= self._rekey.frames - 1 or self._sealed_bytes >= self._rekey.sealed_bytes

    def next_commitment(self) -> bytes:
        """Return the commitment of the next epoch. Raises LocalProtocolError after the last."""
        if self.epoch >= limits.MAX_EPOCH:
            raise LocalProtocolError("a channel has no epochs left")
        return self._derive(self.epoch + 1).commitment

    def next_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch += 1
        self._use(self._derive(self.epoch))

    def accept_epoch(self, epoch: int, commitment: bytes) -> None:
        """Go on to the epoch that the peer announced. Raises RemoteProtocolError, TamperingError."""
        if epoch != self.epoch + 1:
            raise RemoteProtocolError(f"channel {self._channel}: epoch {epoch} after {self.epoch}")
        key = self._derive(epoch)
        check_commitment(key.commitment, commitment, self._channel)
        self.epoch = epoch
        self._use(key)

    def switch(self, input_key: bytes) -> None:
        """Go on under another input key (Key A → Key B), at epoch 0."""
        self._input_key = input_key
        self.epoch = 0
        self._use(self._derive(0))

    # --- frames ---------------------------------------------------------------------------------------------

    def _step(self, length: int) -> tuple[bytes, bytes]:
        """Return nonce and AAD of the next frame; its counter value is spent."""
        nonce = (self._base ^ self._counter).to_bytes(limits.NONCE, "big")
        self._counter += 1
        self._sealed_bytes += length
        self.frames += 1
        return nonce, _AAD.pack(VERSION, self._channel, self._direction[0], length)

    def seal(self, body: bytes) -> bytes:
        """Return a whole sealed frame."""
        length = len(body) + limits.TAG
        nonce, aad = self._step(length)
        return LENGTH.pack(length) + self._aead.encrypt(nonce, body, aad)

    def seal_into(self, body: memoryview, frame: memoryview) -> None:
        """Write a sealed frame of ``4 + len(body) + 16`` bytes. ``body`` may lie in ``frame`` from byte 4 on."""
        length = len(body) + limits.TAG
        nonce, aad = self._step(length)
        LENGTH.pack_into(frame, 0, length)
        self._aead.encrypt_into(nonce, body, aad, frame[limits.LENGTH_WORD :])

    def open_in_place(self, sealed: memoryview) -> memoryview:
        """Open a frame (without its length word) where it lies; return its body. Raises TamperingError."""
        if self._counter >= self._rekey.frames or self._sealed_bytes > self._rekey.sealed_bytes + limits.MAX_DATA_FRAME:
            raise RemoteProtocolError(f"channel {self._channel}: the peer went past the limit without a new key")
        number = self.frames
        nonce, aad = self._step(len(sealed))
        body = sealed[: len(sealed) - limits.TAG]
        try:
            self._aead.decrypt_into(nonce, sealed, aad, body)
        except InvalidTag:
            # GCM decrypts while it authenticates: by now the memory holds text that nobody vouches for.
            body[:] = bytes(len(body))
            raise TamperingError(
                f"frame {number} does not carry the peer's tag (altered, moved, repeated, or sealed under another key)",
                failed="tag",
                channel=self._channel,
            ) from None
        return body


def check_commitment(expected: bytes, shown: bytes, channel: int) -> None:
    """Compare two commitments in constant time. Raises TamperingError."""
    if not hmac.compare_digest(expected, shown):
        raise TamperingError(
            "the peer's key commitment is not that of this session (another key, identity or TLS connection)",
            failed="commitment",
            channel=channel,
        )
