"""A stage's run: its folder, its ranks, its metrics, how it stops and goes on."""
