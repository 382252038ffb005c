"""The commands of `openset` that work with a model, a module each.

A module has `add_arguments(parser)` and `run(arguments)`. The command line reads them all, so
what is heavy is imported inside `run`.
"""
