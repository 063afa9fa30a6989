"""Search: from the request of a user to a study, and from a study to trained trials."""
