"""What is asked of a policy and a PRM before anyone may search with them: by `cos check`, and at every start."""
