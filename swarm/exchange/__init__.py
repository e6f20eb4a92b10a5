"""Experts in folders that others can use: safetensors, the signed manifest, a model card. And back."""
