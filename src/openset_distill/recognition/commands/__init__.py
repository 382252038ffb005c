"""The commands of `openset` that work with a model, one module each.

A module has `add_arguments(parser)` and `run(arguments)`. The command line imports all of them, so heavy imports are
inside `run`.
"""
