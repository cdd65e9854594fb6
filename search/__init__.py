"""The algorithms of cos-serve: strategies over a policy and a scorer. Knows no HTTP, no vLLM, no torch."""
