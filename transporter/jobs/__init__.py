"""The initiating side of every job: backup, recovery, verify."""
