"""Search: from the user's request to a study, and from a study to trained trials. Only this room asks optuna for configurations."""
