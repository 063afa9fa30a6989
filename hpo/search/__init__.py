"""Search: from what the user asked for to a study, and from a study to trained trials. The one user of optuna here."""
