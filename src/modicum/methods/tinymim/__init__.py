"""A small vision transformer from a big masked-image-modelling teacher (TinyMIM, CVPR 2023)."""
