"""The shapes that are timed."""

from __future__ import annotations

# elements: inside the nearest cache, inside the last one, beyond it
ELEMENTS = (1 << 12, 1 << 18, 1 << 24)

# (m, k, n): squares; one row and a few (a language model's decoding); a transformer's layers; a classifier's last layer
PRODUCTS = (
    (64, 64, 64),
    (256, 256, 256),
    (512, 512, 512),
    (1024, 1024, 1024),
    (1, 4096, 4096),
    (12, 4096, 4096),
    (120, 768, 3072),
    (120, 3072, 768),
    (899, 32, 10),
)
