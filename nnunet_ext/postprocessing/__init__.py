"""What is done to the mask of an organ after the networks, as a cross-validation chose it."""
