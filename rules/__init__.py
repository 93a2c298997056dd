"""Decides and tells: recording rules, alerts, notifications."""
