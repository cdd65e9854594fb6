"""What the product is worth, measured: quality on held-out ledgers, serving speed, and what the PRM costs."""
