"""The key hierarchy: passwords, storage keys, session keys and metakeys, and where a node keeps them.

Synchronous; knows no wire and no repository layout: it takes and gives opaque bytes.

    password ──Argon2id──▶ user key (password hash)      password.py, database.py
                              │ wraps (one slot for each way to open the point)     wrap.py, slot.py
                              ▼
                           storage key, one per restore point                       storage_key.py
                              │ wraps (the key ring, inside the point)              key_ring.py
               ┌──────────────┼──────────────────┐
               ▼              ▼                  ▼
          session keys     metakeys         chunk-id key                            session_key.py, chunk_id.py
          seal chunks      seal manifest,   names chunks
                           MAC the point
"""

from __future__ import annotations
