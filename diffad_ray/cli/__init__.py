"""The command line: a command a verb, each calling the function of the same name."""

from diffad_ray.cli.application import app, main

__all__ = ["app", "main"]
