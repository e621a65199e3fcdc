"""A combiner: data plane of a workspace.

It folds updates as they arrive, and, as root of a round, makes the new model.
"""
