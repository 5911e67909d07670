"""Bandwidth limits: which holds when, and how a sender keeps to it."""
