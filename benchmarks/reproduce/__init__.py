"""The paper in miniature: its findings measured anew on held-out ledgers, in one report with plots."""
