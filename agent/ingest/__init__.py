"""Bytes from outside into samples; pure decoders, no sockets."""
