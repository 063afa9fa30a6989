"""A bundle: the folder that a user deploys, and everything that reads it or runs its model. Needs no database."""
