"""What models are fed, and what flows inside them."""
