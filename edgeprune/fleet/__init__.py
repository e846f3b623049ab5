"""The signing side of a fleet: a TUF repository on static files, rollouts, and what devices say of themselves."""
