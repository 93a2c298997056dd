"""Doors of the agent beside HTTP: sockets that others push to."""
