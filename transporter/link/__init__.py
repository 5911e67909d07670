"""The link between two transporters: drives ``protocol/`` over trio. The one place where a message meets a chunk."""
