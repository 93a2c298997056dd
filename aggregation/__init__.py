"""New numbers from stored ones: rollups, tiers, PromQL."""
