"""Detectors as models: Alibi Detect behind the protocol."""
