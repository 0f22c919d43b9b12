"""Attention with a relative positional bias."""

from falloff.attention.api import attention

__all__ = ["attention"]
