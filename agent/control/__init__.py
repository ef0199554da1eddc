"""The control API: what a person and their programs ask of the agent, over a unix socket."""
