"""What a medical image is: geometry, volumes, labels. NumPy only; LPS, mm, voxels ``(C, I, J, K)``."""
