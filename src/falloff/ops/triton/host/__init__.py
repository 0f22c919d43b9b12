"""Host code: lowers a call and launches its kernels."""
