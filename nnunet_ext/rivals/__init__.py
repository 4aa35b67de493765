"""Networks of other groups, trained on the user's own cases beside the cascade."""
