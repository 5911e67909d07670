"""Restore points put together and opened: where keys and repository objects meet, for both ends alike.

The trusted end of a job (source or target, by its zone) runs this code; the other end sees its results as bytes.
"""
