"""Models by name or config, and predictions with them."""
