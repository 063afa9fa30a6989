"""From a finished study to a model in use: export, retrain, evaluate, predict, around the bundle."""
