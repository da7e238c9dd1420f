"""Explainers as models: Alibi and SHAP behind the protocol."""
