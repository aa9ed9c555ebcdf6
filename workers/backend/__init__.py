"""MLX's back ends: memory limits, a faster BLAS on Linux, workarounds for CUDA."""
