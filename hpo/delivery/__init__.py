"""From a finished study to a bundle: export, retrain, ensemble, soup."""
