"""What the user reads: the verdict, the table, and the explanation of a model."""
