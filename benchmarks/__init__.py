"""Timings of symkern beside its peers; see README.md."""
