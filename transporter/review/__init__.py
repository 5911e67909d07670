"""The review of an installation: what its administrator should know, how bad it is, and what to do."""
