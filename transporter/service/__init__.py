"""The serving side of a session: the target's half of every job."""
