"""A vehicle controller's backend, as large as an example may be, and the load that goes with it."""
