"""A world of flat shapes on flat grounds, the models that were trained on it, and a reader of their pictures."""
