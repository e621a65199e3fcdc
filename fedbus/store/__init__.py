"""What survives: the journal, the models, a combiner's spool."""
