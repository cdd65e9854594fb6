"""What searches cost on one machine with a GPU: a plan of short measurements, the most important first, under one limit
of time. The models are the embedded pair, also widened to the sizes of large models."""
