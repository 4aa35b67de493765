"""How the starter is made: heads of real shape, trainings in legs, its files, its scores."""
