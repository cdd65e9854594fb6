"""Labels of steps: from a judging model, from continuations, from a PRM."""
