"""How good a model is: scores of every epoch, the report that a bundle carries, how far its probabilities hold."""
