"""The configuration bundle: everything that makes a node, in one file under a password of its own (docs/bundle.md)."""
