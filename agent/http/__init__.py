"""The HTTP interface: routes, no logic of their own."""
