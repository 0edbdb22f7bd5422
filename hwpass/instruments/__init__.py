"""What watches a pipeline: proofs, differences and files between passes, and limits."""
