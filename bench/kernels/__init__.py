"""What the compiled kernels cost, counted without a GPU."""
