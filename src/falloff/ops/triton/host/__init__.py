"""Host code: what is launched for a call."""
