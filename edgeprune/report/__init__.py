"""What the user reads: the verdict and the table."""
