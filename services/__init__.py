"""What stays up, on Ray Serve: source models on vLLM, the reward model, the endpoint."""
