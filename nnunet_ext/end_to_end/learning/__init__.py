"""Learning curves at equal computing time: trunks and branches, costs of an iteration, scores, tables."""
