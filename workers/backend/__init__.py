"""What the process needs from MLX's back ends: limits, a faster BLAS on Linux, CUDA's gaps."""
