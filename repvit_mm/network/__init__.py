"""RepViT: layers, fusion and the backbone."""
