"""PromQL: parser, type checker and a vectorised engine."""
