"""Records runs in a database, and answers questions on them."""
