"""How good a model is: scores of every epoch, and the report that a bundle carries."""
