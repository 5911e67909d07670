"""One process: listener, jobs, control socket."""
