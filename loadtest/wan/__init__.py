"""A line that is slow, long and lossy, between two network namespaces; and the bench over it."""
