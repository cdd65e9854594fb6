"""How weights are trained: batches to tensors, losses, optimisers, precision, adapters, shards."""
