"""Samples in, series out; owns the files and knows no formula."""
