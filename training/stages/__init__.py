"""The stages of a training run: each makes data or a checkpoint of what stages before it made."""
