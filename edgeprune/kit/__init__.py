"""What goes to a board as it is: files of a build kit that aren't made from a model.

Nothing here imports edgeprune; see `edgeprune.export.kit` for the kit itself.
"""
