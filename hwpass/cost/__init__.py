"""What widths cost on a target."""
