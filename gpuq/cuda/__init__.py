"""The CUDA backend: the operators of `gpuq.cpu` as kernels for NVIDIA GPUs. Imported at the first CUDA use only."""
