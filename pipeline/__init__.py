"""Stages of a backup or a recovery, on trio, over injected callables.

Knows no wire and no disk format: what a stage reads from, asks, or writes to is handed to it.
"""
